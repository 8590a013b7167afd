"""What lies on disk, asked folder by folder: a look at each of a million files would take minutes."""

import os

from clf.errors import UserError


class Disk:
    """Answers questions about files; each folder is listed once, when the first of its files is asked for."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}
        self._real: dict[str, tuple[str, frozenset[str]]] = {}

    def holds(self, path: str) -> bool:
        """Whether there is such a file."""
        folder, name = os.path.split(path)
        if folder not in self._names:
            self._names[folder] = frozenset(
                name for name, is_link in _entries(folder) if not is_link or os.path.exists(os.path.join(folder, name))
            )
        return name in self._names[folder]

    def real(self, path: str) -> str:
        """Resolve symbolic links: the same for all paths that lead to one file, also where there is none."""
        above, slash, name = path.rpartition("/")
        folder = above + slash
        if folder not in self._real:
            links = frozenset(name for name, is_link in _entries(folder) if is_link)
            self._real[folder] = os.path.realpath(folder or ".").rstrip("/"), links
        place, links = self._real[folder]
        return os.path.realpath(path) if name in links else f"{place}/{name}"


def _entries(folder: str) -> list[tuple[str, bool]]:
    try:
        with os.scandir(folder or ".") as entries:
            return [(entry.name, entry.is_symlink()) for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); mend its permissions or remove it") from error
