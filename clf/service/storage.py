"""Uploads and results, kept under the hash of the upload, up to a number of files."""

import hashlib
import io
import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from clf.files import replace_file
from clf.preprocess import FORMATS

log = logging.getLogger("clf")

_OURS = re.compile(r"[0-9a-f]{64}\.\w+", re.ASCII)
_UNFINISHED = re.compile(rf"\.{_OURS.pattern}\.[0-9a-f]{{8}}(\.partial)?", re.ASCII)
_ABANDONED = 600  # seconds after which an unfinished file is that of a process that was killed


class Shelf:
    """A folder that keeps the newest files, each under the hash of an image; other files in it are left alone.

    Args:
        folder: Where; made when the first file comes.
        keep: How many of its files stay; the oldest go first.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self._token = secrets.token_hex(4)  # Other processes may be writing the same name.
        self._lock = threading.Lock()
        self._failed = False
        # A dictionary keeps the order in which names came: a queue that knows what is in it.
        self._names: dict[str, None] = {}
        try:
            self._names = dict.fromkeys(_look_through(folder))
        except OSError as error:
            self._complain(error)

    def put(self, name: str, content: bytes, *, replace: bool) -> None:
        """Keep a file; where that fails, say it once: an answer does not depend on it.

        Args:
            name: Its name, without a folder.
            content: What is in it.
            replace: Whether a file of that name may hold something else.
        """
        with self._lock:
            try:
                if replace or not (self._folder / name).exists():
                    mine = self._folder / f".{name}.{self._token}"
                    replace_file(mine, lambda file: file.write(content))
                    mine.replace(self._folder / name)
                self._names[name] = self._names.pop(name, None)
                while len(self._names) > self._keep:
                    oldest = next(iter(self._names))
                    (self._folder / oldest).unlink(missing_ok=True)
                    del self._names[oldest]
                self._failed = False
            except OSError as error:
                self._complain(error)

    def _complain(self, error: OSError) -> None:
        """Say that nothing is kept, once until something is."""
        if not self._failed:
            log.error("nothing is kept in %s: %s", self._folder, error.strerror or error)
        self._failed = True


def _look_through(folder: Path) -> list[str]:
    """List what earlier processes kept, oldest first, and sweep out what they left unfinished."""
    found: list[tuple[int, str]] = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # other processes make room in the same folder
            changed = path.stat().st_mtime_ns
            if _OURS.fullmatch(path.name) and path.is_file():
                found.append((changed, path.name))
            elif _UNFINISHED.fullmatch(path.name) and time.time() - changed / 1e9 > _ABANDONED:
                path.unlink()
    return [name for _, name in sorted(found)]


class Storage:
    """What the service keeps of requests; nothing, unless it is told where.

    Args:
        uploads: Folder of the images; empty: they are not kept.
        processed: Folder of the results; empty: they are not kept.
        keep: Most files in each.
    """

    def __init__(self, uploads: str, processed: str, *, keep: int) -> None:
        self._uploads = Shelf(Path(uploads), keep=keep) if uploads else None
        self._processed = Shelf(Path(processed), keep=keep) if processed else None

    @property
    def keeps(self) -> bool:
        """Whether anything is kept."""
        return self._uploads is not None or self._processed is not None

    def keep(self, image: bytes, result: Mapping[str, Any]) -> None:
        """Keep an image that was predicted, and what was predicted last.

        Args:
            image: The bytes of its file.
            result: The answer.
        """
        digest = hashlib.sha256(image).hexdigest()
        if self._uploads is not None:
            self._uploads.put(f"{digest}.{_suffix(image)}", image, replace=False)
        if self._processed is not None:
            text = json.dumps({"sha256": digest, **result}, indent=2, ensure_ascii=False) + "\n"
            self._processed.put(f"{digest}.json", text.encode(), replace=True)  # of another model, or as many labels


def _suffix(image: bytes) -> str:
    with Image.open(io.BytesIO(image), formats=FORMATS) as opened:
        return {"JPEG": "jpg", "TIFF": "tif"}.get(opened.format or "", (opened.format or "").lower())
