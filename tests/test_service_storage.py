import os
from pathlib import Path

from clf.service.storage import Shelf


def test_files_of_others_are_neither_counted_nor_deleted(tmp_path: Path) -> None:
    others = ["holiday.jpg", "notes.txt", f"{'a' * 64}.jpg.partial", f"{'A' * 64}.jpg", f"{'a' * 63}.jpg", "a" * 64]
    ours = [f"{number:064x}.jpg" for number in range(3)]
    for age, name in enumerate([*others, *ours]):
        (tmp_path / name).write_bytes(b"old")
        os.utime(tmp_path / name, (age, age))
    shelf = Shelf(tmp_path, keep=2)
    shelf.put(f"{9:064x}.png", b"new")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*others, ours[2], f"{9:064x}.png"}
