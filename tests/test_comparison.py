"""Runs are compared image by image, with the p and intervals that other software computes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.weightstats import DescrStatsW

from clf.comparison import Rows, Side, check_same_images, compare, compare_all, differences, group, read_rows
from clf.errors import UserError
from clf.predictions import Prediction, PredictionWriter
from clf.statistics import NOISE


def rows(marks: str, *, labels: str | None = None, split: str = "test", first: int = 0) -> Rows:
    """What a run said about images `<first>.png` and so on: right where the mark is 1."""
    keys = [(split, 0, f"/{at}.png") for at in range(first, first + len(marks))]
    right = {key: mark == "1" for key, mark in zip(keys, marks, strict=True)}
    return Rows(dict(zip(keys, labels or "a" * len(marks), strict=True)), right)


def side(name: str, *marks: str) -> Side:
    return Side(name, [rows(each) for each in marks])


MARKS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200)


@given(MARKS)
def test_two_runs_are_tested_as_statsmodels_tests_them(marks: list[tuple[bool, bool]]) -> None:
    base, other = ("".join("01"[each[at]] for each in marks) for at in (0, 1))
    found = compare(side("A", base), side("B", other))
    table = [[sum(pair == (one, two) for pair in marks) for two in (True, False)] for one in (True, False)]
    assert found.p == pytest.approx(min(1.0, mcnemar(table, exact=True).pvalue), rel=1e-9)
    assert (found.lost, found.gained) == (table[0][1], table[1][0])
    assert found.n == len(marks)
    assert found.interval is not None
    assert found.interval[0] <= found.difference <= found.interval[1]


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=60))
def test_seeds_are_averaged_before_sides_are_compared(marks: list[list[bool]]) -> None:
    columns = ["".join("01"[each[at]] for each in marks) for at in range(5)]
    found = compare(side("A", *columns[:2]), side("B", *columns[2:]))
    means = np.mean([each[:2] for each in marks], axis=1), np.mean([each[2:] for each in marks], axis=1)
    assert found.difference == pytest.approx(float(np.mean(means[1] - means[0])), abs=1e-12)
    assert found.gained == sum(means[1] > means[0] + 1e-9)
    assert found.lost == sum(means[1] < means[0] - 1e-9)
    assert 0 < found.p <= 1


def test_the_same_seeds_twice_say_what_one_of_them_says() -> None:
    base, other = "1" * 30 + "0" * 10, "0" * 5 + "1" * 35
    once, twice = compare(side("A", base), side("B", other)), compare(side("A", base, base), side("B", other, other))
    assert twice.p == pytest.approx(once.p, rel=1e-6)
    assert (twice.correct, twice.gained, twice.lost) == (once.correct, once.gained, once.lost)


@pytest.mark.parametrize(
    ("base", "other", "sentence"),
    [
        ("0" * 12 + "10", "1" * 12 + "01", "B is better than A (p = 0.002; 13 images won, 1 lost)"),
        ("1" * 12 + "01", "0" * 12 + "10", "B is worse than A (p = 0.002; 1 image won, 13 lost)"),
        ("0" * 20, "1" * 20, "B is better than A (p < 0.001; 20 images won, 0 lost)"),
        ("10000", "01111", "B against A: the difference of 3 images is within noise (p = 0.375; 4 images won, 1 lost)"),
        ("0", "1", "B against A: the difference of 1 image is within noise (p = 1.000; 1 image won, 0 lost)"),
        ("0110", "1001", "B and A get equally many images right (p = 1.000; 2 images won, 2 lost)"),
        ("0110", "0110", "B and A are right on the very same images"),
    ],
)
def test_a_comparison_is_said_in_words(base: str, other: str, sentence: str) -> None:
    assert compare(side("A", base), side("B", other)).sentence == sentence


def test_what_is_better_on_average_is_said_to_be_so() -> None:
    found = compare(side("A", "0" * 10, "0" * 9 + "1"), side("B", "1" * 10))
    assert found.sentence == "B is better than A on average over the runs (p = 0.002; 10 images won, 0 lost)"
    assert found.correct == (0.5, 10.0)
    found = compare(side("A", "011", "010"), side("B", "011"))
    assert found.sentence.startswith("B against A: the difference of 0.5 images is within noise (p = 1.000; ")


def test_the_difference_of_averages_is_bracketed_where_enough_images_differ() -> None:
    found = compare(side("A", "0" * 20, "0" * 10 + "1" * 10), side("B", "0" * 9 + "1" * 11))
    assert found.interval is not None
    assert found.interval == pytest.approx(DescrStatsW([0] * 9 + [1] + [0.5] * 10).zconfint_mean(), abs=1e-9)
    assert compare(side("A", "0" * 20, "0" * 11 + "1" * 9), side("B", "0" * 11 + "1" * 9)).interval is None


def test_several_comparisons_make_each_of_them_less_certain() -> None:
    base, better = "0" * 6 + "1" * 20, "1" * 6 + "1" * 20
    assert compare(side("A", base), side("B", better)).verdict == "better"
    found = compare_all([side("A", base), side("B", better), side("C", base)])
    assert [each.other for each in found] == ["B", "C"]
    assert found[0].p < NOISE < found[0].corrected == 2 * found[0].p
    assert found[0].verdict == "noise"
    assert "p = 0.062" in found[0].sentence


def test_runs_on_different_images_are_refused_with_their_number_and_some_names() -> None:
    with pytest.raises(UserError) as error:
        check_same_images({"A": rows("1111"), "B": rows("111", first=3)})
    assert "A and B were scored on different images: 3 of 4 only in A ('/0.png', '/1.png' and 1 more)" in str(
        error.value
    )
    assert "2 of 3 only in B ('/4.png', '/5.png'); score both on the same data" in str(error.value)
    with pytest.raises(UserError, match=r"1 of 2 only in A \('/1.png'\); 0 of 1 only in B; score both"):
        check_same_images({"A": rows("11"), "B": rows("1")})
    with pytest.raises(UserError, match="if the data has only moved, score one again: `clf test --run RUN"):
        check_same_images({"A": rows("11"), "B": rows("11"), "C": rows("11", first=2)})
    with pytest.raises(UserError, match="different images"):
        check_same_images({"A": rows("11"), "B": rows("11", split="val")})


def test_runs_that_disagree_about_labels_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"labels of 2 of 3 images, e\.g\. '/1\.png' is 'a' and 'b': the data has changed"
    ):
        check_same_images({"A": rows("111", labels="aaa"), "B": rows("111", labels="abb")})
    check_same_images({"A": rows("111", labels="abb"), "B": rows("000", labels="abb")})


def write(path: Path, said: Sequence[Prediction]) -> Path:
    with PredictionWriter(path, top_k=1, labelled=True) as writer:
        writer.write(said)
    return path


def test_rows_are_read_as_they_were_written_whatever_names_they_hold(workdir: Path) -> None:
    names = ['a,"b"\nc', "<script>", "🏀", "\u05d0\u05d1", "$x$", "a/b", ""]
    said = [Prediction(f"images/{name}.png", ((name, 0.9),), name) for name in names]
    found = read_rows(write(Path("test.csv"), said), split="test")
    assert list(found.labels.values()) == names
    assert (found.correct, found.errors) == (7, 0)
    assert ("test", 0, f"{workdir}/images/a/b.png") in found.right


def test_an_image_may_stand_in_several_rows(tmp_path: Path) -> None:
    said = [Prediction("/x.png", ((label, 1.0),), "a") for label in "aba"]
    found = read_rows(write(tmp_path / "val.csv", said), split="val")
    assert list(found.right.items()) == [(("val", at, "/x.png"), at != 1) for at in range(3)]


def test_an_image_without_a_prediction_counts_as_wrong(tmp_path: Path) -> None:
    said = [Prediction("/x.png", (), "", "not finite"), Prediction("/y.png", (("a", 1.0),), "a")]
    found = read_rows(write(tmp_path / "val.csv", said), split="val")
    assert (found.errors, found.correct, len(found.right)) == (1, 1, 2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"path,label,confidence,status,error\nx.png,a,1,ok,\n", "is no table of predictions with labels"),
        (b"path,true,label,status\nx.png,a,a,maybe\n", "is no table of predictions with labels"),
        (b"path,true,label,status\nx.png\n", "is no table of predictions with labels"),
        (b"path,true,label,status\n\xff,a,a,ok\n", "is no table of predictions with labels"),
        (b'path,true,label,status\n"x.png', "is no table of predictions with labels"),
        (b"path,true,label,status\n", "holds no predictions"),
        (b"", "holds no predictions"),
    ],
)
def test_a_file_that_is_no_table_of_predictions_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "test.csv").write_bytes(content)
    with pytest.raises(UserError, match=f"test.csv {reason}"):
        read_rows(tmp_path / "test.csv", split="test")


def test_runs_that_differ_in_seed_and_name_alone_are_one_configuration() -> None:
    configs = [
        {"seed_everything": 1, "name": "a", "data.root": "x", "model.lr": 0.1},
        {"seed_everything": 1, "name": "a", "data.root": "x", "model.lr": 0.2},
        {"model.lr": 0.1, "data.root": "x", "seed_everything": 2, "name": "b"},
    ]
    assert group(configs) == [[0, 2], [1]]
    assert differences([configs[0], configs[2]]) == {}


def test_differences_are_listed_by_key_with_what_each_run_has() -> None:
    configs = [
        {"seed_everything": 1, "model.lr": 0.1, "data.root": "x", "ema.decay": 0.9, "ema.warmup": True, "sizes": [1]},
        {"seed_everything": 2, "model.lr": 0.2, "data.root": "x", "ema": None, "sizes": [1, 2], "new": "é"},
    ]
    assert differences(configs) == {
        "ema": ["{decay: 0.9, warmup: true}", "null"],
        "model.lr": ["0.1", "0.2"],
        "new": [None, "é"],
        "sizes": ["[1]", "[1, 2]"],
    }
