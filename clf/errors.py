"""What a user is told: one message that says what is wrong, where, and what to do."""

from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake that the user can mend; printed as one line, without a traceback, with exit code 2."""


class WorkFailed(Exception):
    """Work that was asked for rightly and cannot be done; printed as one line, without a traceback, exit code 1."""


class Ended(Exception):
    """The end of one of several processes, whose reason is another one's or was told by another one.

    Args:
        message: What this process says of it; empty where another one speaks.
        code: Exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


_TOO_EARLY = "stopped by Ctrl-C before there was anything new to save"


def said_of(error: BaseException, *, hint: bool = True) -> tuple[str, int]:
    """Say how a command ends that raised something.

    Args:
        error: What it raised.
        hint: Whether to say how to see where.
    Returns:
        One line, empty where nothing is to be said, and the exit code.
    """
    if isinstance(error, Ended):
        return error.message, error.code
    if isinstance(error, UserError):
        return str(error), 2
    by_lightning = isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt)
    if isinstance(error, KeyboardInterrupt) or by_lightning:  # the latter while it sets a run up
        return _TOO_EARLY, 130
    if isinstance(error, SystemExit):  # jsonargparse leaves this way once it has printed help or a configuration
        return "", error.code if isinstance(error.code, int) else int(error.code is not None)
    reason = first_line(error) if str(error).strip() else "no message"
    return f"{type(error).__name__}: {reason}{' (--debug shows where)' * hint}", 1


def first_line(error: BaseException) -> str:
    """Say an exception of a library in one line: the first of its message, or what it is where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def printable(text: str, *, lines: bool = False) -> str:
    """Spell out what would move the cursor or ring the bell: labels and names of files may hold anything.

    Args:
        text: What is to be printed.
        lines: Whether it may have several, and tabs in them.
    """
    return "".join(char if char.isprintable() or (lines and char in "\n\t") else ascii(char)[1:-1] for char in text)


def counted(count: float, one: str, many: str | None = None) -> str:
    """Say how many there are of something: ``1 file is``, ``1,200 files are``.

    Args:
        count: How many.
        one: What follows where it is one.
        many: What follows otherwise; by default ``one`` and an s.
    """
    number = f"{count:,}" if isinstance(count, int) else f"{count:g}"
    return f"{number} {one if count == 1 else many or one + 's'}"


def did_you_mean(word: str, options: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Suggest the nearest option, ready to be appended to a message.

    Args:
        word: What was typed.
        options: What could have been typed.
        cutoff: How alike the two must be, in [0, 1].
    Returns:
        ``"; did you mean 'x'?"``, or an empty string when nothing is near.
    """
    near = get_close_matches(word, list(options), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def name_some(names: Sequence[str], most: int = 3, *, write: Callable[[str], str] = repr) -> str:
    """Name the first few of many, in quotes if nothing else is said: ``'a', 'b', 'c' and 9 more``."""
    shown = ", ".join(map(write, names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
