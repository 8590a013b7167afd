"""What a user is told: one message that says what is wrong, where, and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake that the user can mend; printed as one line, without a traceback, with exit code 2."""


class WorkFailed(Exception):
    """Work that was asked for rightly and cannot be done; printed as one line, without a traceback, exit code 1."""


def first_line(error: BaseException) -> str:
    """Say an exception of a library in one line: the first of its message, or what it is where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


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
