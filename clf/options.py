"""What plain commands have in common: mistakes in their options, and the files that are asked for."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from clf.errors import UserError, did_you_mean
from clf.files import replace_text, spelled_out


class OptionParser(argparse.ArgumentParser):
    """Raises what argparse would print; an unknown option is answered with what was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Refuse a command line.

        Raises:
            UserError: With the message, and how to see what there is.
        """
        raise UserError(f"{self.prog}: {message}; {self.prog} --help lists the options")

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse words that are all ours."""
        space, unknown = self.parse_known_args(words)
        if unknown:
            self.refuse(unknown[0])
        return space

    def refuse(self, word: str) -> NoReturn:
        """Refuse a word that nobody knows."""
        known = [option for action in self._actions for option in action.option_strings]
        self.error(f"unknown argument {word!r}{did_you_mean(word.split('=')[0], known)}")


def require_file(flag: str, file: str) -> None:
    """Refuse now what could not be written after minutes of work.

    Args:
        flag: The option that names it.
        file: What it names.
    Raises:
        UserError: If it is a folder, lies in none, or in one where nothing can be written.
    """
    path = Path(os.path.realpath(file))
    if path.is_dir():
        raise UserError(f"{flag} {file!r} is a folder; choose a file")
    if not path.parent.is_dir():
        raise UserError(f"{flag} {file}: there is no such folder; choose another file")
    if not os.access(path if path.exists() and not path.is_file() else path.parent, os.W_OK):
        raise UserError(f"{flag} {file}: nothing can be written there; choose another folder")


def write(flag: str, file: str, text: str) -> None:
    """Write a file that an option names; a link is followed, and a device or a pipe like ``/dev/stdout`` written to.

    Raises:
        UserError: If it cannot be written.
    """
    path = Path(file)
    try:
        if path.is_char_device() or path.is_fifo():
            path.write_bytes(spelled_out(text).encode())
        else:
            replace_text(Path(os.path.realpath(path)), text)
    except (OSError, ValueError) as error:  # ValueError: no name at all
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{flag} {file!r} cannot be written: {reason}; choose another file") from error
