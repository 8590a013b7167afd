"""Results that were measured: collects them from runs, and writes the tables of the README and of docs/results.md.

python scripts/result_tables.py collect runs/jersey_numbers/003 --as jersey_numbers --data "42 jersey numbers"
python scripts/result_tables.py collect runs/no_ema/001 --as no_ema --data … --change "no EMA" --against runs/base/001
python scripts/result_tables.py tables

A collected result is a file in docs/results. The tables are made of these files and of nothing else; a test compares.
"""

import argparse
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clf.comparison import Rows, Side, check_same_images, compare, read_rows, verdict
from clf.results import training_minutes
from clf.statistics import Proportion, p_text

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "docs" / "results"
START, END = "<!-- table {name}: written by scripts/result_tables.py -->", "<!-- end of table -->"

Result = Mapping[str, Any]


# ---------------------------------------------------------------------------------------------------------- collecting


def collect(run: Path, *, data: str, change: str | None, against: Path | None) -> dict[str, Any]:
    """Read what a run measured.

    Args:
        run: Its directory, with ``clf test`` done.
        data: What to call the dataset.
        change: For a comparison: what this run does differently.
        against: For a comparison: the run that it is compared with, image by image.
    """
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    facts = json.loads((run / "environment.json").read_text("utf-8"))
    splits = {split: _figures(metrics[split]) for split in ("val", "test") if split in metrics}
    command = _for_any_machine(facts["command"])
    result = {
        "config": command[command.index("--config") + 1],
        "data": data,
        "command": shlex.join(command),
        "device": facts["machine"]["device"],
        "epochs": metrics["finished"]["epochs"],
        "minutes": round(training_minutes(run / "timing.csv") or 0.0, 1),
        "versions": {name: facts["packages"][name] for name in ("torch", "timm", "lightning")},
        **splits,
    }
    if against is not None:
        result |= {"change": change, "against": _compare(against, run)}
    return result


def _figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("n", "acc_top1", "acc_top1_interval", "f1_macro", "worst_class", "ece")
    return {key: summary[key] for key in keys if key in summary}


def _for_any_machine(command: Sequence[str]) -> list[str]:
    """Leave out where things lie on one machine, and what a run was called there."""
    named = {at for at, word in enumerate(command) if word == "--name"}
    words = [word for at, word in enumerate(command) if at not in named and at - 1 not in named]
    return [re.sub(r"(?<![^\s,\[])/[^\s,\]]*/", "", word) for word in words]


def _compare(first: Path, second: Path) -> dict[str, Any]:
    """Count, over validation and test, the images that only one of two runs gets right."""
    rows = {str(run): _rows(run) for run in (first, second)}
    check_same_images(rows)
    sides = [Side(name, [said]) for name, said in rows.items()]
    found = compare(*sides)
    correct = [int(count) for count in found.correct]
    return {"n": found.n, "correct": correct, "gained": found.gained, "lost": found.lost, "p": found.p}


def _rows(run: Path) -> Rows:
    val, test = (read_rows(run / "predictions" / f"{split}.csv", split=split) for split in ("val", "test"))
    return val | test


# -------------------------------------------------------------------------------------------------------------- tables


def read_results() -> dict[str, Result]:
    """Read all collected results by name, in the order of the names."""
    return {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("*.json"))}


def main_table(results: Mapping[str, Result]) -> str:
    """Lay out what configs reach: a row a result."""
    head = (
        "config",
        "data",
        "validation top-1",
        "test top-1",
        "macro F1",
        "worst class",
        "minutes",
        "device",
        "command",
    )
    rows = [
        (
            result["config"],
            result["data"],
            _top1(result.get("val")),
            _top1(result.get("test")),
            _both(result, lambda figures: f"{figures['f1_macro']:.3f}"),
            _both(result, _worst),
            f"{result['minutes']:g}",
            result["device"],
            f"`{result['command']}`",
        )
        for result in results.values()
        if "against" not in result
    ]
    return _markdown(head, rows)


def comparison_table(results: Mapping[str, Result]) -> str:
    """Lay out what single changes do: a row a result, compared with its base image by image."""
    head = ("change", "validation top-1", "test top-1", "macro F1", "both against the base", "chance")
    rows = []
    for result in results.values():
        if "against" not in result:
            continue
        base = result["against"]
        before, after = (100 * correct / base["n"] for correct in base["correct"])
        rows.append(
            (
                result["change"],
                _top1(result["val"]),
                _top1(result["test"]),
                _both(result, lambda figures: f"{figures['f1_macro']:.3f}"),
                f"{after:.1f} % instead of {before:.1f} % (n = {base['n']}; {base['gained']} won, {base['lost']} lost)",
                f"{p_text(base['p'])}: {verdict(base['p'], base['gained'] - base['lost'])}",
            )
        )
    return _markdown(head, rows)


def _top1(figures: Mapping[str, Any] | None) -> str:
    return "" if figures is None else str(Proportion(round(figures["acc_top1"] * figures["n"]), figures["n"]))


def _both(result: Result, text: Any) -> str:
    return " / ".join(text(result[split]) for split in ("val", "test") if split in result)


def _worst(figures: Mapping[str, Any]) -> str:
    worst = figures.get("worst_class")
    return "" if worst is None else f"{worst['name']}: {100 * worst['acc']:.0f} % of {worst['n']}"


def _markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fill(text: str, *, name: str, table: str) -> str:
    """Put a table between its marks in a document."""
    start = START.format(name=name)
    assert start in text, f"no mark {start!r}"
    before, _, rest = text.partition(start)
    _, end, after = rest.partition(END)
    return f"{before}{start}\n{table}\n{end}{after}"


def tables() -> dict[Path, str]:
    """Make the documents as they should be, by path."""
    results = read_results()
    made = {"results": main_table(results), "changes": comparison_table(results)}
    documents = {}
    for path in (ROOT / "README.md", ROOT / "docs" / "results.md"):
        text = path.read_text("utf-8")
        for name, table in made.items():
            text = fill(text, name=name, table=table) if START.format(name=name) in text else text
        documents[path] = text
    return documents


def main() -> None:
    """Collect a result, or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    collecting = verbs.add_parser("collect")
    collecting.add_argument("run", type=Path)
    collecting.add_argument("--as", dest="name", required=True)
    collecting.add_argument("--data", required=True)
    collecting.add_argument("--change")
    collecting.add_argument("--against", type=Path)
    verbs.add_parser("tables")
    flags = parser.parse_args()
    if flags.verb == "collect":
        if (flags.change is None) != (flags.against is None):
            parser.error("--change and --against go together: what is different, and from which run")
        result = collect(flags.run, data=flags.data, change=flags.change, against=flags.against)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{flags.name}.json").write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
        return
    for path, text in tables().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
