"""``clf serve``: an exported model behind HTTP."""

import argparse
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, NoReturn

from clf.errors import UserError
from clf.options import OptionParser
from clf.service.settings import PREFIX, Settings

_DRAIN = 10  # seconds that a stopping server gives to answers beyond the longest that a request may take


def main(words: Sequence[str]) -> int:
    """Serve a model until the process is told to stop; requests under way are answered first.

    Args:
        words: What follows the verb.
    Returns:
        Exit code: 130 after Ctrl-C. SIGTERM ends a single process by that signal (143 in a shell) once it has drained.
        A group of them (``--workers``) ends with 0 after either.
    Raises:
        UserError: For a setting that is wrong, or when the extra ``serve`` is not installed.
    """
    settings = Settings.read(_parse(words), os.environ)
    if not settings.model:
        raise UserError(f"clf serve needs --model DIR (or {PREFIX}MODEL): the folder that `clf export` wrote")
    try:
        import python_multipart  # noqa: F401
        import uvicorn

        import clf.service.app  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"clf serve needs {error.name}; install its extra: pip install '.[serve]' in clf's checkout"
        ) from error
    _require_address(settings.host, settings.port)
    os.environ.update(settings.to_environment())  # how worker processes learn of them
    with _noticing_ctrl_c() as was_interrupted:
        uvicorn.run(
            "clf.service.app:from_environment",
            factory=True,
            host=settings.host,
            port=settings.port,
            workers=settings.workers,
            log_config=_logging(settings.log_level),
            access_log=False,  # the service writes its own, with request ids
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=round(settings.timeout) + _DRAIN,
        )
    return 130 if was_interrupted() else 0


def _require_address(host: str, port: int) -> None:
    """Try the address before uvicorn does, which has many lines and no advice for one that cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise UserError(f"cannot listen on {host}:{port}: {reason}; choose another --host or --port") from error


@contextmanager
def _noticing_ctrl_c() -> Iterator[Callable[[], bool]]:
    """Give a question: uvicorn drains, raises the signal again for whom it was before, and hides the exception."""
    interrupted = False

    def interrupt(*_: object) -> NoReturn:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield lambda: interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _logging(level: str) -> dict[str, Any]:
    """Messages go to standard error as text, the access log to standard output, one JSON object a line."""
    quiet = "WARNING" if level in ("warning", "error") else "INFO"
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"text": {"format": "%(asctime)s %(levelname)s %(message)s"}, "bare": {"format": "%(message)s"}},
        "handlers": {
            "text": {"class": "logging.StreamHandler", "formatter": "text", "stream": "ext://sys.stderr"},
            "bare": {"class": "logging.StreamHandler", "formatter": "bare", "stream": "ext://sys.stdout"},
        },
        "loggers": {
            "uvicorn": {"handlers": ["text"], "level": quiet, "propagate": False},
            "clf": {"handlers": ["text"], "level": level.upper(), "propagate": False},
            "clf.access": {"handlers": ["bare"], "level": level.upper(), "propagate": False},
        },
    }


def _parse(words: Sequence[str]) -> dict[str, str]:
    parser = OptionParser(
        prog="clf serve",
        description="Serve an exported model over HTTP, with a page at /. Every flag has a variable; the flag wins.",
        epilog=f"{PREFIX}API_KEY has no flag, because command lines can be read by everybody on the machine: when set, "
        "requests need it in the header X-API-Key, or as Authorization: Bearer. /health and /ready never do.",
        allow_abbrev=False,
    )
    for each in fields(Settings):
        if not each.metadata.get("flag", True):
            continue
        choices = f": {', '.join(each.metadata['choices'])}" if "choices" in each.metadata else ""
        default = f"; default {each.default}" if each.default != "" else ""
        help_ = f"{each.metadata['text']}{choices} ({PREFIX}{each.name.upper()}{default})"
        metavar = {"model": "DIR", "uploads_dir": "DIR", "processed_dir": "DIR"}.get(each.name, each.name.upper())
        parser.add_argument(f"--{each.name}", metavar=metavar, help=help_, default=argparse.SUPPRESS)
    space, unknown = parser.parse_known_args(list(words))
    if unknown and unknown[0].startswith("--api_key"):
        parser.error(f"unknown argument {unknown[0]!r}; set {PREFIX}API_KEY")
    if unknown:
        parser.refuse(unknown[0])
    return {name: str(value) for name, value in vars(space).items()}
