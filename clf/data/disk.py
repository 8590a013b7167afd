"""What lies on disk, asked folder by folder: a look at each of a million files would take minutes."""

import errno
import os
from collections.abc import Sequence

from clf.errors import UserError


class Disk:
    """Answers questions about files; each folder is listed once, when the first of its files is asked for."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}
        self._real: dict[str, tuple[str, frozenset[str]]] = {}

    def holds(self, path: str) -> bool:
        """Whether there is such a file."""
        above, slash, name = path.rpartition("/")
        folder = above + slash
        if folder not in self._names:
            entries = _entries(folder)
            self._names[folder] = frozenset(
                name for name, is_link in entries if not is_link or os.path.exists(folder + name)
            )
            self._note(folder, entries)  # or the folder would be listed again for the links in it
        return name in self._names[folder]

    def real(self, path: str) -> str:
        """Resolve symbolic links: the same for all paths that lead to one file, also where there is none."""
        above, slash, name = path.rpartition("/")
        folder = above + slash
        if folder not in self._real:
            self._note(folder, _entries(folder))
        place, links = self._real[folder]
        return os.path.realpath(path) if name in links else f"{place}/{name}"

    def _note(self, folder: str, entries: list[tuple[str, bool]]) -> None:
        links = frozenset(name for name, is_link in entries if is_link)
        self._real[folder] = os.path.realpath(folder or ".").rstrip("/"), links


class Fence:
    """Keeps what a table names below some folders; links are followed.

    Args:
        folders: The folder, or several; an empty text is the working folder.
        disk: Answers for the table's rows.
    """

    def __init__(self, folders: Sequence[str], disk: Disk) -> None:
        self._folders = [folder or "." for folder in folders]
        self._starts = tuple(os.path.realpath(folder).rstrip("/") + "/" for folder in self._folders)
        self._disk = disk

    def require_inside(self, path: str, *, place: str) -> None:
        """Refuse a path that leads out.

        Args:
            path: The path, from the working folder.
            place: Where it is written, for the message.
        Raises:
            UserError: Naming place and path, and what to set where that is meant.
        """
        if not self._disk.real(path).startswith(self._starts):
            folders = " and ".join(map(repr, self._folders))
            raise UserError(
                f"{place}: image {path!r} lies outside {folders}; if you trust the table to name files anywhere, "
                "set data.allow_outside_root: true"
            )


def _entries(folder: str) -> list[tuple[str, bool]]:
    folder = folder.rstrip("/") or folder or "."
    try:
        with os.scandir(folder) as entries:
            return [(entry.name, entry.is_symlink()) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # so there is none
            return []
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); mend its permissions or remove it") from error
