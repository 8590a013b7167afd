"""Files before training: each kind of bad one is told, and every file is read once however often it is named."""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from datasets import draw, photo

from clf.data import scan as scanning
from clf.data.samples import Sample, Samples
from clf.data.scan import Bad, Files, Seen, examine, scan
from clf.preprocess import MAX_PIXELS, decode


def stored(kind: str, **options: Any) -> bytes:
    file = BytesIO()
    photo(60, 50).save(file, kind, **options)
    return file.getvalue()


def huge() -> bytes:
    """A PNG that says it has more pixels than anybody may decode."""
    content = bytearray(stored("PNG"))
    content[16:24] = (MAX_PIXELS // 1000 + 1).to_bytes(4, "big") + (1000).to_bytes(4, "big")
    from zlib import crc32

    content[29:33] = crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def plant(folder: Path) -> dict[str, str]:
    """Make one bad file of each kind; returns what is wrong by its name."""
    contents = {
        "empty-file": b"",
        "not-an-image": b"<html>not found</html>" * 50,
        "too-large-image": huge(),
        "truncated-image": stored("JPEG")[:-600],
        "damaged-image": stored("PNG")[:200] + b"\0" * 300 + stored("PNG")[500:],
    }
    for name, content in contents.items():
        (folder / f"{name}.jpg").write_bytes(content)
    (folder / "broken-link.jpg").symlink_to("nowhere.jpg")
    (folder / "not-a-file.jpg").mkdir()
    return {f"{name}.jpg": name for name in (*contents, "broken-link", "not-a-file", "missing-file")}


def test_each_kind_of_bad_file_is_told_with_its_reason(tmp_path: Path) -> None:
    planted = plant(tmp_path)
    found = {name: examine(str(tmp_path / name)) for name in planted}
    assert {name: bad.problem for name, bad in found.items() if isinstance(bad, Bad)} == planted
    assert all(isinstance(bad, Bad) and bad.reason and "\n" not in bad.reason for bad in found.values())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP"])
def test_images_that_are_cut_short_are_found_in_all_formats(tmp_path: Path, kind: str) -> None:
    whole = stored(kind)
    (tmp_path / "whole").write_bytes(whole)
    (tmp_path / "cut").write_bytes(whole[: len(whole) * 2 // 3])
    seen, cut = examine(str(tmp_path / "whole")), examine(str(tmp_path / "cut"))
    assert isinstance(seen, Seen)
    assert seen.format == kind
    assert seen.image.tobytes() == decode(whole).tobytes()
    assert isinstance(cut, Bad)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes in folders")
def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert examine(str(tmp_path / "pipe.jpg")) == Bad("not-a-file", "is no regular file, but a device, pipe or socket")


def test_a_path_that_no_system_takes_is_missing() -> None:
    assert examine("a\0b.jpg") == Bad("missing-file", "is not there")


def test_a_file_that_is_too_large_to_hold_is_the_same_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(stored("PNG"))
    held = examine(str(tmp_path / "a.png"))
    monkeypatch.setattr(scanning, "_MOST_HELD", 100)
    read = examine(str(tmp_path / "a.png"))
    assert isinstance(held, Seen)
    assert isinstance(read, Seen)
    assert held.format == read.format
    assert held.image.tobytes() == read.image.tobytes()


def test_a_file_is_read_once_however_often_and_by_whatever_path_it_is_named(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", seed=1)
    draw(tmp_path / "b.png", seed=2)
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "folder").symlink_to(".")
    names = ["a.png", "b.png", "a.png", "link.png", "folder/b.png", "gone.png", "gone.png"]
    listing = {"train": Samples(Sample(f"{tmp_path}/{name}", "x") for name in names), "val": [Sample("c.png", "x")]}
    files = Files(listing)  # type: ignore[arg-type]
    seen: list[int] = []
    bad = scan(files.paths, look=lambda index, _: seen.append(index))
    assert list(files.rows["train"]) == [0, 1, 0, 0, 1, 2, 2]
    assert (sorted(seen), sorted(bad)) == ([0, 1], [2, 3])


def test_what_goes_wrong_while_files_are_looked_at_ends_the_scan(tmp_path: Path) -> None:
    draw(tmp_path / "a.png", seed=1)

    def look(*_: Any) -> None:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        scan([str(tmp_path / "a.png")] * 99, look=look)
