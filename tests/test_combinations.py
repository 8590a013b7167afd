"""The list of chosen numbers and colours: what it asks for, and every mistake with its line."""

from pathlib import Path

import pytest

from clf.data.combinations import read_groups
from clf.data.jersey import Colours
from clf.data.rendering import Group
from clf.errors import UserError

GOOD = '- {labels: ["7"], jersey_colors: [red], number_colors: [white], count: 2}\n'


def spec(folder: Path, text: str) -> Path:
    (folder / "wanted.yaml").write_text(text)
    return folder / "wanted.yaml"


def test_an_entry_is_every_label_in_every_combination_of_its_colours(tmp_path: Path) -> None:
    text = (
        '- {labels: ["7", "00"], jersey_colors: [red, navy], number_colors: [white], borders: [none, gold], count: 20}'
    )
    groups = read_groups(spec(tmp_path, text))
    assert groups[0] == Group("train", "7", 20, Colours("red", "white", "none"))
    assert [group.look for group in groups] == [
        f"{label}/{jersey}/white/{border}"
        for label in ("7", "00")
        for jersey in ("red", "navy")
        for border in ("none", "gold")
    ]


def test_without_borders_and_split_borders_are_chance_and_images_are_for_training(tmp_path: Path) -> None:
    assert read_groups(spec(tmp_path, GOOD)) == [Group("train", "7", 2, Colours("red", "white"))]


def test_entries_may_be_written_in_lines_and_go_to_different_splits(tmp_path: Path) -> None:
    text = GOOD + "- labels: ['7']\n  jersey_colors: [red]\n  number_colors: [white]\n  count: 3\n  split: val\n"
    assert [(group.split, group.count) for group in read_groups(spec(tmp_path, text))] == [("train", 2), ("val", 3)]


def entry(**changes: str | None) -> str:
    """Write an entry with a key on each line: labels on line 1, then colours, count and whatever is added."""
    values = {"labels": '["7"]', "jersey_colors": "[red]", "number_colors": "[white]", "count": "2", **changes}
    return "- " + "\n  ".join(f"{key}: {value}" for key, value in values.items() if value is not None) + "\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"expected a list of entries like - \{labels"),
        ("[]", "expected a list of entries"),
        ("labels: [7]", "expected a list of entries"),
        ("- 7", "entry 1 is 7; expected one like"),
        (GOOD + "- {}", "entry 2 is {}; expected one like"),
        (entry(colour="[red]"), r":5: unknown key 'colour'"),
        (
            entry(jersey_colour="[red]"),
            r":5: unknown key 'jersey_colour'; did you mean 'jersey_colors'\?; the keys are",
        ),
        (entry(count=None), ":1: count is missing"),
        (entry() + "  count: 3\n", ":5: the key 'count' is given twice"),
        (entry(labels="[7]"), ':1: labels has 7; a jersey number is text of one to three digits, in YAML "00"'),
        (entry(labels="[ten]"), ":1: labels has 'ten'"),
        (entry(labels='["1234"]'), ":1: labels has '1234'"),
        (entry(labels='"7"'), r":1: labels='7' is no list with something in it; write \[a, b\]"),
        (entry(labels="[]"), r":1: labels=\[\] is no list with something in it"),
        (entry(labels='["7", "7"]'), ":1: labels repeats '7'"),
        (entry(jersey_colors="[reed]"), r":2: jersey_colors has 'reed'; did you mean 'red'\?; the colours are white"),
        (entry(jersey_colors="[none]"), ":2: jersey_colors has 'none'"),
        (entry(jersey_colors="[[red]]"), r":2: jersey_colors has \['red'\]"),
        (entry(number_colors="[3]"), ":3: number_colors has 3"),
        (entry(borders="[~]"), ":5: borders has None"),
        (entry(count="0"), ":4: count=0 is no number of images; choose 1 or more"),
        (entry(count="true"), ":4: count=True is no number"),
        (entry(count="2.5"), ":4: count=2.5 is no number"),
        (entry(split="valid"), ":5: split='valid' is none of train, val, test"),
        (entry(split="[train]"), r":5: split=\['train'\] is none of"),
        (entry(jersey_colors="[gold, red]"), r":3: cannot be read \(contrast below 3\): white on gold; divide"),
        (
            entry(jersey_colors="[red, navy]", number_colors="[red, white, black]"),
            ":3: .*: red on red, red on navy, black on navy; divide the entry",
        ),
        (entry(borders="[none, red]"), ":5: a red border cannot be told from the red it touches"),
        (entry(borders="[white]"), ":5: a white border cannot be told from the white"),
        (entry() + GOOD, ":5: train/7/red/white is given twice; ask for each combination once"),
    ],
)
def test_a_mistake_is_one_line_with_file_and_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as mistake:
        read_groups(spec(tmp_path, text))
    assert "wanted.yaml" in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere.yaml: No such file"):
        read_groups(tmp_path / "nowhere.yaml")
