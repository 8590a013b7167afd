"""Makes docs/performance.md of benchmarks/results.json and of nothing else: ``python benchmarks/performance.py``.

A measure that is not there yet has its row all the same, with the command that measures it. A test compares.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
PAGE = ROOT / "docs" / "performance.md"
PICTURE = ROOT / "docs" / "growth.png"

Result = Mapping[str, Any]

PEERS = {
    "torchvision": "torchvision",
    "timm": "timm",
    "torchvision_v2": "torchvision v2 on bytes",
    "decoding": "decoding alone",
    "without": "without it",
    "simplejpeg": "decoding once",
    "pillow": "decoding once (Pillow)",
    "writing": "writing as many bytes",
    "lightning": "plain Lightning",
    "timm_channels_last": "timm, channels_last",
    "torch": "PyTorch",
    "timm_loader": "PyTorch with timm's loader",
    "imports": "the imports",
    "reference": "reference decoding",
}
"""What peers are called on the page."""


@dataclass(frozen=True)
class Row:
    """A measure on the page.

    Args:
        measure: Its name in the file of results.
        what: What is measured.
        command: What measures it.
        targets: By peer: the least ratio that is wanted, or, if negative, the largest. Peer "" is the value itself.
    """

    measure: str
    what: str
    command: str
    targets: Mapping[str, float] = field(default_factory=dict)

    @property
    def script(self) -> str:
        return self.command.split()[1]


@dataclass(frozen=True)
class Section:
    """A heading with its rows."""

    title: str
    text: str
    rows: Sequence[Row]


def _input_rows() -> list[Row]:
    sets = {
        "photos": "photos of 500 pixels",
        "folder": "photos of a folder",
        "large": "photos of 12 megapixels",
        "small": "rendered crops of 36 to 60 pixels",
        "small_folder": "crops of a folder",
    }
    limits = {"torchvision": 2.0, "timm": 1.6, "decoding": 0.7}
    targets = {"photos": limits, "folder": limits, "large": {"torchvision": 6.0}}
    given = {"folder": " --data FOLDER", "small_folder": " --small_data FOLDER"}
    rows = []
    for name, what in sets.items():
        command = f"python benchmarks/pipeline.py --sets {name}{given.get(name, '')}"
        wanted = targets.get(name, {"torchvision": 2.0, "timm": 2.0})
        rows.append(Row(f"input_{name}", f"{what}: random crop, flip", command, wanted))
        rows.append(Row(f"input_{name}_normalised", f"{what}: the same, normalised on this CPU", command))
        rows.append(Row(f"input_{name}_standard", f"{what}: recipe `standard`", command))
        rows.append(Row(f"input_{name}_standard_normalised", f"{what}: `standard`, normalised on this CPU", command))
    return rows


BUILT = {"pillow": -1.3, "simplejpeg": -1.3}

SECTIONS = (
    Section(
        "Training images",
        "From files to batches in one process with one thread; images a second of CPU time. "
        "`python benchmarks/pipeline.py --help` says what each peer does.",
        _input_rows(),
    ),
    Section(
        "Cache",
        "`data.cache` keeps training images decoded: epochs out of it, building it, and the last epoch of a training.",
        (
            Row("cache_warm", "an epoch out of the cache", "python benchmarks/cache.py", {"torchvision": 7.0}),
            Row("cache_build", "building it on disk", "python benchmarks/cache.py", BUILT),
            Row("cache_build_memory", "building it in memory", "python benchmarks/cache.py", BUILT),
            Row("cache_fit", "last epoch of `clf fit`, a tiny network", "python benchmarks/cache.py"),
        ),
    ),
    Section(
        "Training",
        "A step's overhead is what it takes longer than a raw loop over the same batches. Whole runs count from the "
        "command to its exit, and clf writes its tables, figures and report in that time.",
        (
            Row("step_overhead", "overhead of a step", "python benchmarks/step.py", {"lightning": -0.6}),
            Row("step_overhead_cpu", "the same as CPU time", "python benchmarks/step.py", {"lightning": -0.6}),
            Row(
                "whole_run",
                "ResNet-18, 96 pixels, two epochs, made photos",
                "python benchmarks/whole_run.py",
                {"timm": -0.85, "timm_channels_last": -0.85},
            ),
            Row(
                "whole_run_folder",
                "the same, photos of a folder",
                "python benchmarks/whole_run.py --data FOLDER",
                {"timm": -0.85, "timm_channels_last": -0.85},
            ),
            Row("allocator", "training steps with freed memory kept", "python benchmarks/allocator.py"),
            Row("callbacks_validation", "a validation with all callbacks", "python benchmarks/callbacks.py"),
            Row("callbacks_run", "a run with all callbacks", "python benchmarks/callbacks.py"),
        ),
    ),
    Section(
        "Prediction",
        "ResNet-18 at 224 pixels, exported, against eager PyTorch in channels_last.",
        (
            Row("predict_network_1", "the network, batch of 1", "python benchmarks/predict.py", {"torch": -1 / 1.5}),
            Row("predict_network_64", "the network, batch of 64", "python benchmarks/predict.py", {"torch": -1 / 1.5}),
            Row(
                "predict_command",
                "`clf predict` over a folder, whole command",
                "python benchmarks/predict.py",
                {"torch": -1 / 1.5},
            ),
        ),
    ),
    Section(
        "Start",
        "CPU time of all processes, against `import torch, lightning.pytorch, timm`.",
        (
            Row("startup_first_step", "the demo to its first step", "python benchmarks/startup.py", {"imports": -1.3}),
            Row("startup_print_config", "`clf fit --print_config`", "python benchmarks/startup.py"),
            Row("startup_help", "`clf --help`", "python benchmarks/startup.py"),
        ),
    ),
    Section(
        "Growth",
        "Manifests of a thousand to a million rows. Memory is what a process holds beyond one that has only imported "
        "the same; the exponent is the slope of a straight line through the logarithms: 1 is linear.",
        (
            Row("growth_memory_main", "main process, largest manifest", "python benchmarks/growth.py", {"": -200}),
            Row("growth_memory_worker", "a loader worker, largest manifest", "python benchmarks/growth.py", {"": -200}),
            Row("growth_epoch", "exponent of the time of an epoch", "python benchmarks/growth.py", {"": -1.1}),
            Row("growth_listing", "exponent of the time to list", "python benchmarks/growth.py", {"": -1.1}),
            Row("growth_predict", "`clf predict`, most files less fewest", "python benchmarks/growth.py"),
        ),
    ),
    Section(
        "Checking",
        "What `clf check` takes for files, duplicates and labels, and what becomes of its predictions of time and "
        "memory: 1 is right.",
        (
            Row("check_photos", "10,000 photos of 500 pixels", "python benchmarks/check.py", {"": -120}),
            Row("check_rows", "a manifest of a few hundred images", "python benchmarks/check.py"),
            Row("fit_start_rows", "`clf fit` to its first step, on that manifest", "python benchmarks/check.py"),
            Row("cost_time", "predicted seconds of a run's epochs", "python benchmarks/cost.py"),
            Row("cost_memory", "predicted memory of a run", "python benchmarks/cost.py"),
        ),
    ),
    Section(
        "Accuracy",
        "The same short training, three seeds each, with images read as far as crops need them (clf) and decoded whole "
        "by Pillow before torchvision crops them (reference).",
        (Row("accuracy", "test top-1", "python benchmarks/accuracy.py --data FOLDER"),),
    ),
)

UNMEASURED = (
    ("a step on a GPU: its parts, and what `channels_last`, precision and compiling bring, beside the loader",
     "clf bench step --config resnet18.yaml --data.root FOLDER --compile", "its tables"),
    ("images a second of a training on a GPU, and the share of the time that it waits for data",
     "clf fit --config resnet18.yaml --data.root FOLDER", "columns of the run's `timing.csv`"),
    ("whether normalising on the device costs a GPU anything",
     "clf fit --config resnet18.yaml --data.root FOLDER --trainer.profiler simple",
     "the row of `on_after_batch_transfer`"),
    ("what `channels_last` and half precision bring",
     "clf fit --config resnet18.yaml --data.root FOLDER --model.channels_last false --trainer.precision 32-true",
     "`timing.csv`, against a run without the last two keys"),
    ("predictions by ONNX Runtime on a GPU",
     "clf predict --ckpt_path runs/resnet18/001/export/model.onnx --data.predict FOLDER --device cuda",
     "seconds of the command, against `--device cpu`"),
    ("several GPUs",
     "clf fit --config resnet18.yaml --data.root FOLDER --trainer trainer/ddp.yaml",
     "`timing.csv`, against one GPU"),
)  # fmt: skip
"""What needs a GPU: what, the command, and where to look."""

HEAD = """# Performance

What clf takes, beside what its peers take for the same on the same machine. Everything on this page was measured by the
command in its row and written by `make bench`, from `benchmarks/results.json`; nothing is typed by hand.

All that is compared takes turns in one run of the script, with fixed threads; values are medians of `n` turns. A ratio
is clf's value divided by the peer's: of images a second more is better, of times and memory less is. Spreads and the
peers' own values stand in the file.
"""

PARTS = """Where a number is missed, this says why. A JPEG is decoded from its first byte on, whatever is cut out of it,
and no library for Python can skip what lies outside the crop: what decoding takes, at the size that the crop allows, is
the limit. Small images are enlarged to the network's size, which then takes as long as decoding them.
"""

BUILDING = """Building decodes each of {images} files once, shrinks what is larger than it has to be, and writes
{megabytes} MB: what it takes beyond decoding is shrinking, a copy into memory, and waiting for the disk.
"""

TAIL = """## Not measured without a GPU

The machines of this page have none. What measures the rest:
"""


def page(results: Mapping[str, Result], *, picture: bool) -> str:
    """Write the page.

    Args:
        results: By measure.
        picture: Whether there is one of growth.
    """
    machines = list(dict.fromkeys(result["machine"] for _, result in sorted(results.items())))
    parts = [HEAD, _machines(machines)]
    for section in SECTIONS:
        parts += [f"## {section.title}\n", f"{section.text}\n", _table(section.rows, results, machines)]
        if section.title == "Training images":
            parts.append(_parts(section.rows, results))
        if section.title == "Cache" and "megabytes" in results.get("cache_build", {}):
            parts.append(BUILDING.format(**results["cache_build"]))
        if section.title == "Training":
            parts += [
                _epochs(row, results[row.measure])
                for row in section.rows
                if "epoch_seconds" in results.get(row.measure, {})
            ]
        if section.title == "Growth" and picture:
            parts.append("![time and memory against rows of a manifest](growth.png)\n")
        if section.title == "Checking":
            parts += [
                _by_rows(row, results[row.measure]) for row in section.rows if "rows" in results.get(row.measure, {})
            ]
        if section.title == "Accuracy" and "accuracy" in results:
            parts.append(f"{results['accuracy']['sentence']}.\n")
    parts += [TAIL, _markdown(("what", "command", "where to look"), ((a, f"`{b}`", c) for a, b, c in UNMEASURED))]
    return "\n".join(parts)


def _parts(rows: Iterable[Row], results: Mapping[str, Result]) -> str:
    """Say what a crop's time goes into: where that is decoding alone, nothing else can be saved."""
    head = ("of the time of a crop", "reading the file", "decoding", "resizing", "all else")
    lines = []
    for row in rows:
        if "parts" not in results.get(row.measure, {}):
            continue
        shares = results[row.measure]["parts"]
        rest = max(0.0, 1 - sum(shares.values()))
        values = (shares["reading"], shares["decoding"], shares["resizing"], rest)
        lines.append((row.what, *(f"{100 * value:.0f} %" for value in values)))
    return PARTS + "\n" + _markdown(head, lines) if lines else ""


def _epochs(row: Row, result: Result) -> str:
    """Say how much of whole runs was training and validating."""
    seconds = {"clf": result["value"], **result["peers"]}
    told = [
        f"{PEERS.get(name, name)} {seconds[name]:.0f} s, {each:.0f} s of them in epochs"
        for name, each in result["epoch_seconds"].items()
    ]
    return (
        f"{row.what}: {'; '.join(told)}. Epochs are the network's products, which all compute with the same kernels.\n"
    )


def _by_rows(row: Row, result: Result) -> str:
    """Say how time and memory grow with a manifest."""
    told = [f"{int(rows):,} rows {seconds} s and {memory} MB" for rows, (seconds, memory) in result["points"].items()]
    return f"{row.what}: {'; '.join(told)}.\n"


def _machines(machines: Sequence[str]) -> str:
    if not machines:
        return "Nothing is measured yet.\n"
    return "\n".join(f"Machine {number}: {text}.\n" for number, text in enumerate(machines, start=1))


def _table(rows: Sequence[Row], results: Mapping[str, Result], machines: Sequence[str]) -> str:
    head = ("what", "clf", "against peers", "wanted", "n", "machine", "command")
    return _markdown(head, (_cells(row, results.get(row.measure), machines) for row in rows))


def _cells(row: Row, result: Result | None, machines: Sequence[str]) -> tuple[str, ...]:
    if result is None:
        wanted = "; ".join(_wanted(peer, target) for peer, target in row.targets.items())
        return row.what, "not measured yet", "", wanted, "", "", f"`{row.command}`"
    ratios = "; ".join(f"{_ratio(ratio)} × {PEERS[peer]}" for peer, ratio in result["vs"].items())
    wanted = "; ".join(
        f"{_wanted(peer, target)}: {'yes' if _met(target, _reached(result, peer)) else '**no**'}"
        for peer, target in row.targets.items()
    )
    value = f"{result['value']:,g} {result['unit']}".strip()
    machine = str(machines.index(result["machine"]) + 1)
    return row.what, value, ratios, wanted, str(result["n"]), machine, f"`{result['command']}`"


def _reached(result: Result, peer: str) -> float:
    return float(result["vs"][peer] if peer else result["value"])


def _met(target: float, reached: float) -> bool:
    return reached >= target if target >= 0 else reached <= -target


def _wanted(peer: str, target: float) -> str:
    bound = f"{'≥' if target >= 0 else '≤'} {abs(target):.3g}"
    return f"{bound} × {PEERS[peer]}" if peer else bound


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.3f}"


def _markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def read(path: Path = RESULTS) -> dict[str, Result]:
    """Read all results; none where nothing is measured yet."""
    return dict(json.loads(path.read_text("utf-8"))) if path.exists() else {}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(read(), picture=PICTURE.exists()), "utf-8")


if __name__ == "__main__":
    main()
