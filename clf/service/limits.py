"""What stands around every endpoint: request ids and the access log, security headers, the key, the largest body."""

import hashlib
import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Iterable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("clf")
access = logging.getLogger("clf.access")

_NOTHING = "default-src 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: its own files, and the pictures that it is given."""

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def failure(status: int, message: str, *, headers: dict[str, str] | None = None) -> JSONResponse:
    """Make the answer to a request that failed: one sentence, and nothing about the inside."""
    return JSONResponse({"detail": message}, status, headers)


class Watched:
    """Gives every request an id, every answer its headers, and the access log a line; hides what went wrong inside.

    Args:
        app: What answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = Headers(scope=scope).get("x-request-id", "")
        request_id = asked if _REQUEST_ID.fullmatch(asked) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        began, answer = time.perf_counter(), {"status": 0, "bytes": 0}

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer["status"] = message["status"]
                _add_headers(MutableHeaders(scope=message), request_id)
            answer["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            log.exception("request %s failed", request_id)
            if not answer["status"]:
                await failure(500, "the service failed; its log says why")(scope, receive, watched)
        finally:
            _write_line(scope, request_id, answer, seconds=time.perf_counter() - began)


class Keyed:
    """Lets in who knows the key.

    Args:
        app: What answers.
        key: The key; empty lets everybody in.
        free: Paths that need none.
    """

    def __init__(self, app: ASGIApp, *, key: str, free: Iterable[str]) -> None:
        self._app = app
        self._key = _digest(key) if key else None
        self._free = frozenset(free)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http" or self._key is None or scope["path"] in self._free:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (token.strip() if scheme.lower() == "bearer" else "")
        # Digests are of one length: how long comparing takes says nothing about the key.
        if hmac.compare_digest(_digest(given), self._key):
            await self._app(scope, receive, send)
            return
        message = f"the API key is {'wrong' if given else 'missing'}; send it in the header X-API-Key"
        await failure(401, message, headers={"WWW-Authenticate": "Bearer"})(scope, receive, send)


class Limited:
    """Refuses bodies that are too large: by what they say of themselves, and by what comes.

    Args:
        app: What answers.
        max_bytes: The largest body.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        message = f"the request is larger than {self._max} bytes; send less"
        said = Headers(scope=scope).get("content-length", "0")
        if said.isdecimal() and int(said[:20]) > self._max:
            await failure(413, message, headers={"Connection": "close"})(scope, receive, send)
            return
        came = 0

        async def limited() -> Message:
            nonlocal came
            part = await receive()
            came += len(part.get("body", b""))
            if came > self._max:
                raise HTTPException(413, message, headers={"Connection": "close"})
            return part

        await self._app(scope, limited, send)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _add_headers(headers: MutableHeaders, request_id: str) -> None:
    is_page = headers.get("content-type", "").startswith("text/html")
    headers["X-Request-ID"] = request_id
    headers["Content-Security-Policy"] = PAGE_POLICY if is_page else _NOTHING
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)


def _write_line(scope: Scope, request_id: str, answer: dict[str, int], *, seconds: float) -> None:
    line: dict[str, Any] = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "request_id": request_id,
        "client": (scope.get("client") or ("",))[0],
        "method": scope["method"],
        "path": scope["path"],
        **answer,
        "ms": round(1000 * seconds, 1),
    }
    # What watches over the service asks every few seconds: that would drown the rest.
    quiet = scope["path"] in ("/health", "/ready") and answer["status"] == 200
    access.log(logging.DEBUG if quiet else logging.INFO, "%s", json.dumps(line))
