"""A line from every process of a command to the first one: a death is noticed at once, and all hear its reason."""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

_GRACE_SECONDS: Final = 5.0  # What a process that heard a reason gets to end by itself, and again to tidy up.
_CTRL_C: Final = 130
_LONGEST: Final = 1 << 20  # characters of a message; a stranger may send without end
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # a host without power says no goodbye


@dataclass(frozen=True)
class Cause:
    """Why all processes end.

    Args:
        message: What the user is told; nothing where the work is done.
        code: Exit code.
    """

    message: str
    code: int


class Lifeline:
    """One end of the lines. The first reason to end that is heard of counts; whoever does not follow it is made to.

    A process may wait for another one for ever, e.g. inside NCCL, and then nothing but the end of the process helps.

    Args:
        said: Called, in another thread, with a reason that came from another process, as soon as it is heard.
        forced: Called in another thread before a process is ended that did not end by itself.

    Attributes:
        address: Where the first process hears the others, and how it knows them.
        orphaned: Whether the first process has gone without a word.
    """

    address: str
    orphaned = False

    def __init__(self, *, said: Callable[[Cause], object], forced: Callable[[], object]) -> None:
        self._said, self._forced = said, forced
        self._cause: Cause | None = None
        self._mutex = threading.Lock()
        self._heard, self._leaving = threading.Event(), threading.Event()

    def hear(self, cause: Cause) -> None:
        """Take in a reason to end; all but the first count for nothing."""
        with self._mutex:
            if self._cause is not None or self._leaving.is_set():
                return
            self._cause = cause
        with suppress(Exception):
            self._said(cause)
        self._heard.set()
        threading.Thread(target=self._insist, daemon=True).start()

    def cause(self, seconds: float = 0.0) -> Cause | None:
        """Wait for a reason; None if there is none by then."""
        self._heard.wait(seconds)
        return self._cause

    def leave(self, cause: Cause) -> None:
        """End for a reason of one's own."""
        with self._mutex:
            self._cause = self._cause or cause
        self._leaving.set()
        if cause.message:
            threading.Thread(target=self._insist, daemon=True).start()

    def close(self) -> None:
        """Let go of the lines, once nothing can fail any more."""
        raise NotImplementedError

    def _insist(self) -> None:
        assert self._cause is not None
        if not self._leaving.wait(_GRACE_SECONDS):
            with suppress(Exception):
                self._forced()
        else:
            time.sleep(2 * _GRACE_SECONDS)  # libraries may wait for the dead while the interpreter ends, too
        sys.stderr.flush()
        os._exit(self._cause.code)


class First(Lifeline):
    """The first process's end: hears of every death and failure, and tells the others.

    Args:
        host: Where the others reach this one.
        patience: Seconds to wait before a process counts as killed: whoever started it may know more.
        said: See `Lifeline`.
        forced: See `Lifeline`.
    """

    def __init__(
        self, host: str, *, patience: float, said: Callable[[Cause], object], forced: Callable[[], object]
    ) -> None:
        super().__init__(said=said, forced=forced)
        self._patience = patience
        self._token = secrets.token_hex(16)
        self._others: list[socket.socket] = []
        if host == "127.0.0.1":
            self._server = socket.create_server((host, 0))
        elif socket.has_dualstack_ipv6():
            self._server = socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            self._server = socket.create_server(("", 0))
        self.address = json.dumps([host, self._server.getsockname()[1], self._token])
        threading.Thread(target=self._accept, daemon=True).start()

    def hear(self, cause: Cause) -> None:
        """Take in a reason to end, and pass it on."""
        super().hear(cause)
        self._tell(self._cause or cause)

    def leave(self, cause: Cause) -> None:
        """End for a reason of one's own, and tell it."""
        super().leave(cause)
        self._tell(self._cause or cause)

    def close(self) -> None:
        """Take no more lines."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes who waits in accept
        self._server.close()

    def _tell(self, cause: Cause) -> None:
        with self._mutex:
            others = [*self._others]
        for other in others:
            _send(other, asdict(cause))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        _keep_alive(connection)
        with connection, connection.makefile("r", encoding="utf-8") as lines:
            hello = _read(lines)
            if not secrets.compare_digest(str(hello.get("token", "")).encode(), self._token.encode()):
                return
            with self._mutex:
                self._others.append(connection)
            if self._cause is not None:  # it came late
                _send(connection, asdict(self._cause))
            last, who = _read(lines), hello["who"]
            if not last:
                self._heard.wait(self._patience)
                self.hear(Cause(f"{who} was killed, perhaps because memory ran out", 1))
            elif last["message"]:
                if last["code"] == _CTRL_C:
                    self._leaving.wait(2 * self._patience)  # it reaches all, and this one has its own words for it
                    who = ""
                self.hear(Cause(f"{who}: {last['message']}".removeprefix(": "), last["code"]))


class Other(Lifeline):
    """Every other process's end.

    Args:
        address: Of the first one.
        who: What the user is to call this process.
        said: See `Lifeline`.
        forced: See `Lifeline`.
    Raises:
        OSError: If the first process cannot be reached.
    """

    def __init__(
        self, address: str, *, who: str, said: Callable[[Cause], object], forced: Callable[[], object]
    ) -> None:
        super().__init__(said=said, forced=forced)
        self.address = address
        host, port, token = json.loads(address)
        self._socket = socket.create_connection((host, port), timeout=60)
        self._socket.settimeout(None)
        _keep_alive(self._socket)
        _send(self._socket, {"token": token, "who": who})
        threading.Thread(target=self._listen, daemon=True).start()

    def leave(self, cause: Cause) -> None:
        """End for a reason of one's own, and tell it."""
        super().leave(cause)
        _send(self._socket, asdict(cause))

    def close(self) -> None:
        """Cut the line."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _listen(self) -> None:
        with self._socket.makefile("r", encoding="utf-8") as lines:
            said = _read(lines)
        self.orphaned = not said and not self._leaving.is_set()
        self.hear(Cause(**said) if said else Cause("the first process is gone: killed, or its machine lost", 1))


def _read(lines: Any) -> dict[str, Any]:
    """Read one message; nothing where the other end is gone, or is none of ours."""
    try:
        said = json.loads(lines.readline(_LONGEST) or "{}")
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    with suppress(OSError):
        connection.sendall(json.dumps(message).encode() + b"\n")


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
