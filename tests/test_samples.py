"""Many samples take little memory, and are the samples that went in."""

import os
import pickle
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clf.data.samples import Sample, Samples
from clf.data.strings import Strings

# What file names may hold: any text, and bytes that are none.
NAMES = st.binary(max_size=20).map(os.fsdecode)
METADATA = st.dictionaries(st.text(max_size=4), st.none() | st.booleans() | st.integers() | st.text(max_size=4))
SAMPLES = st.lists(st.builds(Sample, NAMES, st.none() | st.text(max_size=4), METADATA))


@given(st.lists(NAMES))
def test_texts_are_kept_exactly_whatever_bytes_a_file_name_has(texts: list[str]) -> None:
    assert list(Strings(texts)) == texts
    assert list(pickle.loads(pickle.dumps(Strings(texts)))) == texts


@given(SAMPLES, st.slices(6), st.integers(-7, 7))
def test_they_are_what_a_list_of_them_is(samples: list[Sample], part: slice, index: int) -> None:
    kept = Samples(samples)
    assert kept == samples
    assert kept[part] == samples[part]
    assert list(pickle.loads(pickle.dumps(kept))) == samples
    assert (kept == samples[1:]) == (not samples)
    if -len(samples) <= index < len(samples):
        assert kept[index] == samples[index]
    else:
        with pytest.raises(IndexError):
            kept[index]


def rows(count: int) -> Iterator[Sample]:
    for row in range(count):
        yield Sample(f"/data/some/folder/of/images/train/{row:08}.jpg", f"class {row % 40}", {})


def test_a_hundred_thousand_take_less_than_a_hundred_bytes_each() -> None:
    tracemalloc.start()
    kept = Samples(rows(100_000))
    size, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept) == 100_000
    assert size < 10_000_000
    assert peak < 12_000_000
