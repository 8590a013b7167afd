"""What holds for whatever is written into tables, configurations and labels: laws, tried on many made-up examples."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as arrow  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from clf.checkpoints import Facts
from clf.config import compose, merge
from clf.data.manifest import ManifestSource
from clf.data.samples import Sample
from clf.data.splits import class_names
from clf.data.tables import MANIFESTS, RowKeys
from clf.errors import UserError
from clf.exported import labels_mapping
from clf.preprocess import Preprocessing
from clf.yamlfile import parse_yaml

few = settings(
    max_examples=30,
    derandomize=True,  # the same examples everywhere: a red build can be repeated
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# Tables

# All that can be a file's name; no line ends, so that rows can be counted.
LETTERS = st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\u2028\u2029\x85")
TEXT = st.text(LETTERS, min_size=1, max_size=12)
NAMES = TEXT.map(str.strip).filter(lambda name: name not in ("", ".", "..") and len(name.encode()) < 200)
LABELS = TEXT.filter(lambda label: not label.isspace())
ROWS = st.lists(st.tuples(NAMES, LABELS, TEXT), min_size=1, max_size=5)


def write_rows(file: Path, rows: list[dict[str, str]]) -> None:
    """Write a table as other programs do."""
    if file.suffix == ".parquet":
        parquet.write_table(arrow.Table.from_pylist(rows), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    else:
        lines = io.StringIO()
        writer = csv.DictWriter(lines, list(rows[0]), delimiter="\t" if file.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
        file.write_text(lines.getvalue(), encoding="utf-8", newline="")


@pytest.mark.parametrize("suffix", MANIFESTS)
@given(rows=ROWS)
@few
def test_paths_labels_and_metadata_come_out_of_a_table_as_they_went_in(
    tmp_path: Path, suffix: str, rows: list[tuple[str, str, str]]
) -> None:
    for name, *_ in rows:
        (tmp_path / name).touch()
    file = tmp_path / f".table{suffix}"
    write_rows(file, [{"path": name, "label": label, "fact": fact} for name, label, fact in rows])
    source = ManifestSource([str(file)], keys=RowKeys(facts=("fact",), inside=(str(tmp_path),)))
    expected = [Sample(f"{tmp_path}/{name}", label, {"fact": fact}) for name, label, fact in rows]
    assert source.samples("train") == expected


def require_table_or_refusal(file: Path, content: bytes) -> None:
    """Read bytes as a table; nothing but a refusal in one line, which names it, may come of it."""
    file.write_bytes(content)
    try:
        ManifestSource([str(file)], keys=RowKeys(inside=(str(file.parent),))).samples("train")
    except UserError as error:
        refused = str(error)
    else:
        return
    assert refused.startswith(str(file))
    assert "\n" not in refused


@pytest.mark.parametrize("suffix", MANIFESTS)
@given(content=st.binary(max_size=80) | st.text(max_size=80).map(lambda text: text.encode(errors="surrogatepass")))
@example(b'path,label\n"a.jpg')
@example(b"path\tlabel\n\0\t\0\n")
@example(b'{"path": "\\ud800.jpg", "label": "x"}')
@example(b'{"path": "a\\u0000.jpg", "label": "x"}')
@example(b'{"path": ["a"], "label": {"b": 1}}')
@few
def test_any_bytes_are_a_table_or_refused_with_its_name(tmp_path: Path, suffix: str, content: bytes) -> None:
    require_table_or_refusal(tmp_path / f"table{suffix}", content)


def test_a_damaged_parquet_file_is_a_table_or_refused_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    write_rows(file, [{"path": "a.jpg", "label": "ä"}])
    whole = file.read_bytes()
    for at in range(0, len(whole), 11):
        require_table_or_refusal(file, whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        require_table_or_refusal(file, whole[:at])


# Configurations

KEYS = st.sampled_from("abc")
VALUES = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["x", "00", "1e-3", "no"])
LEAVES = VALUES | st.lists(VALUES, max_size=2)
MAPPINGS = st.recursive(
    st.dictionaries(KEYS, LEAVES, max_size=3), lambda inner: st.dictionaries(KEYS, LEAVES | inner, max_size=3)
)


@given(MAPPINGS, MAPPINGS, MAPPINGS)
@few
def test_merging_in_two_steps_is_merging_in_one_where_mappings_stay_mappings(a: Any, b: Any, c: Any) -> None:
    if not _replaces_mapping(a, b):
        assert merge(merge(a, b), c) == merge(a, merge(b, c))


def _replaces_mapping(one: Any, other: Any) -> bool:
    """Whether a value stands where the other has a mapping, or the other way round: then the order is what counts."""
    both = [(one[key], other[key]) for key in one.keys() & other.keys()]
    return any(
        _replaces_mapping(x, y) if isinstance(x, dict) and isinstance(y, dict) else isinstance(x, dict) for x, y in both
    )


@given(MAPPINGS, MAPPINGS)
@few
def test_what_is_laid_over_wins_and_what_it_does_not_mention_stays(base: Any, over: Any) -> None:
    before = json.dumps([base, over])
    merged = merge(base, over)
    assert json.dumps([base, over]) == before, "neither is changed"
    assert merge(merged, over) == merged
    assert merge(base, {}) == base
    assert merge({}, over) == over
    _require_on_top(merged, base, over)


def _require_on_top(merged: Any, base: Any, over: Any) -> None:
    assert merged.keys() == base.keys() | over.keys()
    for key, value in merged.items():
        if key not in over:
            assert value == base[key]
        elif isinstance(over[key], dict) and isinstance(base.get(key), dict):
            _require_on_top(value, base[key], over[key])
        else:
            assert value == over[key], "null and lists replace"


@given(MAPPINGS)
@few
def test_dotted_keys_say_the_same_as_nested_ones(tmp_path: Path, mapping: dict[str, Any]) -> None:
    nested, dotted = tmp_path / "nested.yaml", tmp_path / "dotted.yaml"
    nested.write_text(json.dumps({"data": mapping}))
    dotted.write_text(json.dumps(dict(_flat(mapping, "data"))))
    assert compose([nested]).config["data"] == compose([dotted]).config["data"] == mapping


def _flat(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _flat(item, f"{key}.{name}")
    else:
        yield key, value


@given(st.dictionaries(st.sampled_from(["0", "00", "1", "on", "null", "1e3", "~x", "é"]), st.integers(0, 9)))
@few
def test_keys_stay_the_text_that_they_are(mapping: dict[str, int]) -> None:
    assert parse_yaml("".join(f"{key}: {value}\n" for key, value in mapping.items())) == (mapping or None)
    assert json.loads(json.dumps(parse_yaml(json.dumps(mapping)))) == mapping


# Labels


@given(st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=30).filter(lambda names: len(set(names)) > 1))
@example(["10", "9", "1", "00", "0", "é", "e\u0301", "Z", "a", "\U0001f986", "\uffff"])
@few
def test_classes_are_sorted_by_code_point_and_numbered_one_to_one(labels: list[str]) -> None:
    classes = class_names([Sample(f"{number}.jpg", label) for number, label in enumerate(labels)], where="here")
    assert classes == sorted(set(labels), key=lambda name: [ord(letter) for letter in name])
    written = labels_mapping(classes, Preprocessing(size=(8, 8)))
    read = json.loads(json.dumps(written, ensure_ascii=True))
    assert read == json.loads(json.dumps(written, ensure_ascii=False)) == written
    assert read["num_classes"] == len(classes) == len(read["class_to_idx"])
    assert [read["idx_to_class"][str(read["class_to_idx"][name])] for name in classes] == classes
    assert Facts(classes, {"arch": "x"}, {}, "random").to_dict()["classes"] == classes
