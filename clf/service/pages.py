"""The files that a browser gets: a page to try the model, one about the endpoints; no build, nothing from elsewhere."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/page/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/page/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/page/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path -> file, and what it is."""


def router() -> APIRouter:
    """Make the routes; the files are read once."""
    made = APIRouter(include_in_schema=False)
    folder = files("clf.service") / "page"
    for path, (name, kind) in FILES.items():
        made.add_api_route(path, _answering((folder / name).read_bytes(), kind), methods=["GET"])
    return made


def _answering(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def answer() -> Response:
        return Response(content, media_type=kind)

    return answer
