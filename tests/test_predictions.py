"""The prediction table: what goes in comes out, in every format, whole or not at all."""

import csv
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clf.errors import UserError
from clf.predictions import SUFFIXES, Prediction, PredictionWriter, columns, rank

Row = dict[str, Any]
HARD_LABELS = ["0", "00", "1", "1e5", "a,b", 'say "hi"', "two\nlines", "cr\rcr", " x ", "🦊", "שלום", "null", "=1+1"]


def read_csv(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_jsonl(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def read_parquet(path: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


READ: dict[str, Callable[[Path], list[Row]]] = {".csv": read_csv, ".jsonl": read_jsonl, ".parquet": read_parquet}

each_format = pytest.mark.parametrize("suffix", SUFFIXES)


def write(path: Path, rows: list[Prediction], *, top_k: int = 1, labelled: bool = True) -> list[Row]:
    with PredictionWriter(path, top_k=top_k, labelled=labelled) as writer:
        writer.write(rows)
    return READ[path.suffix](path)


@contextmanager
def disk_full_after(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@each_format
def test_every_format_has_the_same_columns_in_the_same_order(tmp_path: Path, suffix: str) -> None:
    row = Prediction("a.png", (("00", 0.5), ("1", 0.25)), true="1")
    expected = ["path", "true", "label", "confidence", "label_2", "confidence_2", "status", "error"]
    assert list(write(tmp_path / f"p{suffix}", [row], top_k=2)[0]) == expected
    assert columns(top_k=1, labelled=False) == ["path", "label", "confidence", "status", "error"]


@each_format
def test_labels_survive_the_round_trip_as_text(tmp_path: Path, suffix: str) -> None:
    rows = [Prediction(f"{label}.png", ((label, 0.5),), true=label) for label in HARD_LABELS]
    back = write(tmp_path / f"p{suffix}", rows)
    assert [row["label"] for row in back] == HARD_LABELS
    assert [row["true"] for row in back] == HARD_LABELS
    assert [row["path"] for row in back] == [f"{label}.png" for label in HARD_LABELS]


@each_format
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_any_text_survives_the_round_trip(tmp_path: Path, suffix: str, texts: list[str]) -> None:
    back = write(tmp_path / f"p{suffix}", [Prediction(text, ((text, 0.5),), text) for text in texts])
    assert [(row["path"], row["true"], row["label"]) for row in back] == [(text, text, text) for text in texts]


@each_format
def test_a_file_name_that_is_not_utf_8_is_spelt_out_and_costs_no_row(tmp_path: Path, suffix: str) -> None:
    name = b"caf\xe9.png".decode(errors="surrogateescape")
    assert [row["path"] for row in write(tmp_path / f"p{suffix}", [Prediction(name, (("a", 1.0),))])] == [
        "caf\\udce9.png"
    ]


@each_format
def test_an_unreadable_file_keeps_its_row_with_the_reason_and_no_prediction(tmp_path: Path, suffix: str) -> None:
    rows = [Prediction("a.png", (("x", 0.5),), "x"), Prediction("b.png", error="b.png: truncated", true="y")]
    good, bad = write(tmp_path / f"p{suffix}", rows)
    nothing = "" if suffix == ".csv" else None
    assert (good["status"], good["error"]) == ("ok", "")
    assert bad == {
        "path": "b.png",
        "true": "y",
        "label": nothing,
        "confidence": nothing,
        "status": "error",
        "error": "b.png: truncated",
    }


@each_format
def test_an_unknown_label_among_known_ones_is_an_empty_cell(tmp_path: Path, suffix: str) -> None:
    back = write(tmp_path / f"p{suffix}", [Prediction("a", (("x", 0.5),), "x"), Prediction("b", (("x", 0.5),))])
    assert [row["true"] for row in back] == ["x", "" if suffix == ".csv" else None]


def test_the_three_formats_hold_the_same_numbers(tmp_path: Path) -> None:
    ranked = rank(np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32), list("abcd"), top_k=4)
    rows = [Prediction(str(i), row) for i, row in enumerate(ranked)]
    tables = [write(tmp_path / f"p{suffix}", rows, top_k=4, labelled=False) for suffix in SUFFIXES]
    numbers = [[float(row[f"confidence{k}"]) for row in table for k in ("", "_2", "_3", "_4")] for table in tables]
    assert numbers[0] == numbers[1] == numbers[2] == [prob for row in ranked for _, prob in row]


def test_parquet_columns_are_text_and_doubles_even_without_a_row(tmp_path: Path) -> None:
    write(tmp_path / "p.parquet", [])
    schema = pq.read_schema(tmp_path / "p.parquet")
    assert {name: schema.field(name).type for name in schema.names} == {
        name: pa.float64() if name == "confidence" else pa.string() for name in columns(top_k=1, labelled=True)
    }


def test_parquet_is_written_in_bounded_groups_without_losing_a_row(tmp_path: Path) -> None:
    rows = (Prediction(str(i), (("a", 0.5),)) for i in range(20_000))
    with PredictionWriter(tmp_path / "p.parquet", top_k=1, labelled=False) as writer:
        while batch := list(islice(rows, 999)):
            writer.write(batch)
    file = pq.ParquetFile(tmp_path / "p.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [8192, 8192, 3616]
    assert file.read()["path"].to_pylist() == [str(i) for i in range(20_000)]


def test_csv_is_what_unix_tools_expect(tmp_path: Path) -> None:
    write(tmp_path / "p.csv", [Prediction("a.png", (("00", 0.125),), "0")])
    assert (tmp_path / "p.csv").read_bytes() == b"path,true,label,confidence,status,error\na.png,0,00,0.125,ok,\n"


def test_rows_reach_the_disk_while_the_table_grows(tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path / "p.csv", top_k=1, labelled=False)
    writer.write(Prediction("x" * 100) for _ in range(1000))
    assert (tmp_path / "p.csv.partial").stat().st_size > 50_000
    assert not (tmp_path / "p.csv").exists()
    writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


@each_format
def test_an_earlier_file_survives_a_failure_and_no_partial_one_is_left(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    write(path, [Prediction("old", (("a", 0.5),))])
    before = path.read_bytes()
    with pytest.raises(KeyError), PredictionWriter(path, top_k=1, labelled=True) as writer:  # noqa: PT012
        writer.write([Prediction("new", (("b", 0.5),))])
        raise KeyError
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@each_format
def test_a_full_disk_is_an_error_that_harms_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    write(path, [Prediction("old", (("a", 0.5),))])
    before = path.read_bytes()
    with (
        disk_full_after(20_000),
        pytest.raises(OSError, match="too large") as error,
        PredictionWriter(path, top_k=1, labelled=True) as writer,
    ):
        writer.write(Prediction(f"{i}.png", (("a", 0.5),)) for i in range(20_000))
    assert error.value.filename == str(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@each_format
def test_a_disk_that_is_full_only_at_the_end_is_an_error_too(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"p{suffix}"
    writer = PredictionWriter(path, top_k=1, labelled=True)
    writer.write([Prediction("a.png", (("a", 0.5),))])
    with disk_full_after(10), pytest.raises(OSError, match="too large") as error:
        writer.close()
    assert error.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []


@each_format
def test_a_half_file_of_a_killed_process_is_overwritten(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"p{suffix}.partial").write_text("half a row")
    assert len(write(tmp_path / f"p{suffix}", [Prediction("a", (("a", 0.5),))])) == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["p.txt", "p", "p.csv.gz"])
def test_a_suffix_without_a_format_is_refused_by_naming_the_three(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"output='.*{name}' has no known format; end it in .csv, .jsonl, .parquet"):
        PredictionWriter(tmp_path / name, top_k=1, labelled=False)


def test_the_suffix_may_be_written_in_capitals(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path / "P.CSV", top_k=1, labelled=False):
        pass
    assert (tmp_path / "P.CSV").read_text() == "path,label,confidence,status,error\n"


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "p.csv", [])
    assert (tmp_path / "a" / "b" / "p.csv").is_file()


def test_a_place_that_cannot_be_written_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match=r"predictions cannot be written to '.*file/p.csv' \(File exists\)"):
        PredictionWriter(tmp_path / "file" / "p.csv", top_k=1, labelled=False)
    with pytest.raises(UserError, match=r"folder.csv' \(it is a folder\); choose another file"):
        PredictionWriter(tmp_path / "folder.csv", top_k=1, labelled=False)


def test_probabilities_are_the_softmax_to_six_digits() -> None:
    logits = np.array([[0.0, np.log(3.0)], [1000.0, -1000.0]], np.float32)
    assert rank(logits, ["a", "b"], top_k=2) == [(("b", 0.75), ("a", 0.25)), (("a", 1.0), ("b", 0.0))]
    ((_, third),) = rank(np.zeros((1, 3), np.float32), list("abc"), top_k=1)[0]
    assert third == 0.333333


def test_equal_scores_keep_the_order_of_the_classes() -> None:
    assert [label for label, _ in rank(np.array([[1, 2, 1, 2]], np.float32), list("abcd"), top_k=4)[0]] == list("bdac")


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=12), st.integers(1, 15))
def test_labels_come_by_falling_score_each_once_and_never_more_than_there_are(scores: list[float], top_k: int) -> None:
    names = [f"class {i}" for i in range(len(scores))]
    (ranked,) = rank(np.array([scores], np.float32), names, top_k=top_k)
    expected = sorted(range(len(scores)), key=lambda i: -scores[i])[:top_k]
    assert [label for label, _ in ranked] == [names[i] for i in expected]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_predict_nothing_and_spoil_no_other_image(broken: float) -> None:
    logits = np.array([[0, 1], [broken, 1], [1, 0]], np.float32)
    assert [row and row[0][0] for row in rank(logits, ["a", "b"], top_k=1)] == ["b", (), "a"]


def test_a_batch_without_images_has_no_rows() -> None:
    assert rank(np.zeros((0, 3), np.float32), list("abc"), top_k=2) == []


def test_ranking_leaves_the_logits_as_they_are() -> None:
    logits = np.array([[1.0, 2.0]], np.float32)
    rank(logits, ["a", "b"], top_k=2)
    assert logits.tolist() == [[1.0, 2.0]]
