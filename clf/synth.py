"""``clf synth``: renders a dataset, the rare classes of a real one, or chosen combinations, and says how to train."""

import argparse
import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from clf.data.combinations import read_groups
from clf.data.filling import TIGHTNESS, find_gaps, rarest_first, train_samples, typical_heights
from clf.data.layout import near
from clf.data.rendering import Group, Order, Style, is_number, write
from clf.data.synthetic import CLASSES, SyntheticJerseys
from clf.errors import UserError, name_some
from clf.options import OptionParser

Flags = Mapping[str, Any]

BELOW: Final = 100
TO: Final = 200
PLAIN: Final = {
    "train_per_class": "training images of each class",
    "val_per_class": "validation images of each class",
    "test_per_class": "test images of each class",
}
STYLE: Final = {
    "seed": "decides every image",
    "size_min": "smallest image height in pixels; --fill measures it",
    "size_max": "largest image height in pixels; --fill measures it",
    "degradation": "what camera and codec spoil, from 0 (nothing) to 1 (cruel)",
    "rotation": "largest turn in degrees to either side",
}
MODES: Final = dict.fromkeys(("classes", *PLAIN), "") | dict.fromkeys(("below", "to", "label_key"), "fill")
"""The flags that go with one way of calling alone."""


def main(argv: Sequence[str]) -> int:
    """Run ``clf synth``: render, say what was made and how to train on it.

    Args:
        argv: The arguments after the verb.
    Returns:
        The exit code, 0.
    Raises:
        UserError: If a flag or a file is wrong, or the folder cannot be used.
    """
    flags = _parse(argv)
    if "fill" in flags:
        _fill(flags)
    elif "spec" in flags:
        _render_spec(flags)
    else:
        _render_classes(flags)
    return 0


def _render_classes(flags: Flags) -> None:
    output = flags["output"]
    spec = SyntheticJerseys(**{key: value for key, value in flags.items() if key != "output"})
    made = write(spec.order, output=output)
    splits = ", ".join(f"{split} {count * len(spec.classes)}" for split, count in spec.counts.items())
    print(f"{output}: {len(spec.classes)} classes; images: {splits}{_again(made)}")
    print(_command(shlex.quote(output)))


def _render_spec(flags: Flags) -> None:
    groups, output = read_groups(Path(flags["spec"])), flags["output"]
    made = write(Order.of(groups, _style(flags)), output=output)
    counts: Counter[str] = Counter()
    for group in groups:
        counts[group.split] += group.count
    splits = ", ".join(f"{split} {count}" for split, count in counts.items())
    classes = len({group.label for group in groups})
    print(f"{output}: {classes} classes, {len(groups)} combinations; images: {splits}{_again(made)}")
    print(_command(shlex.quote(output)))


def _fill(flags: Flags) -> None:
    below, to = flags.get("below", BELOW), flags.get("to", TO)
    find_gaps({}, below=below, to=to)
    root, output = _places(flags)
    samples = train_samples(root, label_key=flags.get("label_key"))
    counts = rarest_first(samples)
    gaps = find_gaps(counts, below=below, to=to)
    print(f"{root}: {len(counts)} classes, {len(samples)} training images")
    if full := [label for label in counts if is_number(label) and label not in gaps]:
        print(f"full ({below} images or more): {len(full)} of {len(counts)} classes")
    if others := [label for label in counts if not is_number(label)]:
        print(f"no jersey numbers, left as they are: {name_some(others)}")
    if not gaps:
        print("nothing to fill, and no folder was made")
        return
    style = _style({"tightness": TIGHTNESS, **_measured(samples, flags), **flags})
    made = write(Order.of([Group("train", label, count) for label, count in gaps.items()], style), output=output)
    print(*_table({label: counts[label] for label in gaps}, gaps), sep="\n")
    print(f"{output}: {len(gaps)} classes; images: train {sum(gaps.values())}{_again(made)}")
    both = shlex.quote(_yaml_list([root, output]))
    print(f"{_command(both, what='both')} --data.train_only '{{source: rendered}}'")


def _places(flags: Flags) -> tuple[str, str]:
    """Where the real images are, and where the rendered ones go; never into the real dataset."""
    root = flags["fill"].rstrip("/") or "/"
    if not Path(root).exists():
        raise UserError(f"--fill={root!r} is not there{near(root)}; name the dataset as in data.root")
    beside = Path(root).resolve() if Path(root).name in ("", "..") else Path(root)
    output = flags.get("output", f"{beside.with_suffix('') if beside.is_file() else beside}-rendered")
    if Path(output).resolve().is_relative_to(Path(root).resolve()):
        raise UserError(f"--output={output!r} lies in the real dataset {root!r}; name a folder outside it")
    return root, output


def _measured(samples: Sequence[Any], flags: Flags) -> dict[str, int]:
    if "size_min" in flags and "size_max" in flags:
        return {}
    low, high, count = typical_heights(samples)
    print(f"heights: {low} to {high} pixels, as nine of ten of the real images have ({count} measured)")
    return {"size_min": low, "size_max": high}


def _table(real: Mapping[str, int], rendered: Mapping[str, int]) -> list[str]:
    rows = [("class", "real", "rendered", "total")]
    rows += [(label, str(n), str(rendered[label]), str(n + rendered[label])) for label, n in real.items()]
    return [f"  {label:<5}  {n:>6}  {more:>8}  {total:>6}" for label, n, more, total in rows]


def _command(root: str, *, what: str = "it") -> str:
    return f"train on {what}: clf fit --config configs/jersey_numbers.yaml --data.root {root}"


def _yaml_list(paths: list[str]) -> str:
    plain = all(re.fullmatch(r"[\w./][\w./-]*", path) for path in paths)
    return f"[{', '.join(paths)}]" if plain else json.dumps(paths, ensure_ascii=False)


def _again(made: bool) -> str:
    return "" if made else " (was already there)"


def _style(flags: Flags) -> Style:
    return Style(**{key: flags[key] for key in (*STYLE, "tightness") if key in flags})


def _parse(argv: Sequence[str]) -> dict[str, Any]:
    """Read the flags that were given, and refuse those that do not go together."""
    parser = _parser()
    flags = vars(parser.parse(argv))
    if "fill" in flags and "spec" in flags:
        parser.error("--fill and --spec are two commands; give one of them")
    mode = next((mode for mode in ("fill", "spec") if mode in flags), "")
    for key in flags:
        if MODES.get(key, mode) != mode:
            parser.error(f"--{key} goes with --fill alone" if MODES[key] else f"--{key} does not go with --{mode}")
    if mode != "fill" and "output" not in flags:
        parser.error("the following arguments are required: --output")
    return flags


def _parser() -> OptionParser:
    parser = OptionParser(
        prog="clf synth",
        description="Render jersey numbers, as folders with annotations.jsonl: a dataset, the rare classes of a real "
        "one (--fill), or chosen numbers and colours (--spec).",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--output", metavar="DIR", help="folder to make (with --fill: <ROOT>-rendered if not given)")
    plain = parser.add_argument_group("a dataset")
    plain.add_argument("--classes", metavar="N", nargs="+", help=f"jersey numbers (default: {' '.join(CLASSES)})")
    for key, text in PLAIN.items():
        plain.add_argument(
            f"--{key}", metavar="N", type=int, help=f"{text} (default: {getattr(SyntheticJerseys, key)})"
        )
    fill = parser.add_argument_group("the rare classes of a real dataset")
    fill.add_argument("--fill", metavar="ROOT", help="the dataset, as in data.root; it is only read")
    fill.add_argument("--below", metavar="N", type=int, help=f"fill classes with fewer images (default: {BELOW})")
    fill.add_argument("--to", metavar="N", type=int, help=f"how many they have then, in all (default: {TO})")
    fill.add_argument("--label_key", metavar="KEY", help="as data.label_key (default: suffix, else label)")
    spec = parser.add_argument_group("chosen numbers and colours")
    spec.add_argument("--spec", metavar="FILE", help="YAML list of labels, jersey_colors, number_colors, count, ...")
    style = parser.add_argument_group("how images look")
    for key, text in STYLE.items():
        value = getattr(Style, key)
        style.add_argument(f"--{key}", metavar="N", type=type(value), help=f"{text} (default: {value})")
    tight = f"share of the height that the number takes, 0.2 to 1 (default: a margin; with --fill {TIGHTNESS})"
    style.add_argument("--tightness", metavar="N", type=float, help=tight)
    return parser
