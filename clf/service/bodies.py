"""Images out of the bodies of requests, in memory: nothing of a request is written to disk on the way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

_FIELDS = 8  # other fields of a form are let through and not looked at, but not without end


class Upload(NamedTuple):
    """A file of a form: its name, which is only ever repeated in the answer, and its content."""

    name: str
    content: bytes


class _InMemory(MultiPartParser):
    spool_max_size = 1 << 62  # bodies are limited as a whole


async def read_image(request: Request, *, deadline: float) -> bytes:
    """Take the one image of a request: the field ``file`` of a form, or the whole body.

    Args:
        request: The request.
        deadline: When it must have come, by the loop's clock.
    Raises:
        HTTPException: If there is none, or it does not come.
    """
    if _is_form(request):
        uploads = await read_images(request, most=1, deadline=deadline)
        return uploads[0].content
    async with _arriving(deadline):
        return await request.body()


async def read_images(request: Request, *, most: int, deadline: float) -> list[Upload]:
    """Take all images of a form, in their order.

    Args:
        request: The request.
        most: How many there may be.
        deadline: When they must have come, by the loop's clock.
    Raises:
        HTTPException: If there is none, there are too many, or they do not come.
    """
    if not _is_form(request):
        raise HTTPException(415, "send images as multipart/form-data, in fields called 'file'")
    _, options = parse_options_header(request.headers["content-type"])
    if options.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise HTTPException(415, "names in a form must be UTF-8; leave its charset out")
    parser = _InMemory(request.headers, request.stream(), max_files=most + 1, max_fields=_FIELDS)
    async with _arriving(deadline):
        form = await parser.parse()
        found = [each for name, each in form.multi_items() if name == "file"]
        uploads = [Upload(each.filename or "", await each.read()) for each in found if isinstance(each, UploadFile)]
        await form.close()
    if len(uploads) > most:
        raise HTTPException(413, f"more than {most} {'image' if most == 1 else 'images'} in one request; send fewer")
    if not uploads:
        raise HTTPException(422, "the form has no file in a field called 'file'")
    return uploads


@asynccontextmanager
async def _arriving(deadline: float) -> AsyncIterator[None]:
    """Say what may go wrong while a body comes as an answer."""
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError as error:
        raise HTTPException(408, "the request did not come in time", headers={"Connection": "close"}) from error
    except MultiPartException as error:
        status = 413 if "Too many files" in error.message else 400
        raise HTTPException(status, f"the form cannot be read: {error.message}") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the request ended before it was complete") from error


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data"
