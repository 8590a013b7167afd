"""The endpoints: an image in, labels out; everything that takes time happens beside the event loop."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from clf import __version__
from clf.predictions import NOT_FINITE, Ranked, rank
from clf.predictor import Predictor
from clf.preprocess import UnreadableImage
from clf.service import answers, pages
from clf.service.answers import Answer, Batch, Health, Outcome
from clf.service.batching import Batcher, Busy, Rooms
from clf.service.bodies import read_image, read_images
from clf.service.limits import Keyed, Limited, Watched, failure
from clf.service.model import Model, NotReady, describe, identify
from clf.service.settings import Settings
from clf.service.storage import Storage

TopK = Annotated[int, Query(ge=1, le=1000, description="How many labels to name; no more than there are.")]

_FREE = {"/health", "/ready", "/openapi.json", *pages.FILES}  # of paths: they say nothing about the model but its API


def from_environment() -> ASGIApp:
    """Make the service from ``CLF_*`` variables, as each of uvicorn's processes does."""
    return create(Settings.read({}, os.environ))


def create(settings: Settings) -> ASGIApp:
    """Make the service.

    Args:
        settings: How it runs.
    Returns:
        An ASGI application; its lifespan loads the model and stops its threads.
    """
    service = Service(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.close()

    app = FastAPI(
        title="clf",
        version=__version__,
        description="Classifies images with a model that `clf export` wrote.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads its script from elsewhere; ours is among the pages
        redoc_url=None,
    )
    app.include_router(_endpoints(service))
    app.include_router(pages.router())
    for kind, answer in _ANSWERS.items():
        app.add_exception_handler(kind, answer)
    return Watched(Keyed(Limited(app, max_bytes=settings.max_bytes), key=settings.api_key, free=_FREE))


class Service:
    """What is behind the endpoints of one process.

    Args:
        settings: How it runs.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model = Model(settings)
        self.rooms = Rooms(settings.queue)
        self.storage = Storage(settings.uploads_dir, settings.processed_dir, keep=settings.keep)
        self.batcher = Batcher(
            size=settings.batch_size, wait=settings.batch_wait, decoders=max(2, settings.network_threads)
        )
        self._tasks: set[asyncio.Task[Ranked]] = set()
        self._keeping: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin; the model is loaded on the way."""
        self.model.look()
        self.batcher.start()

    async def close(self) -> None:
        """Stop, once nothing is at work and all is kept."""
        while at_work := self._tasks | self._keeping:
            await asyncio.wait(at_work)
        await self.batcher.close()

    def deadline(self) -> float:
        """When a request that has come now must be answered, by the loop's clock."""
        return asyncio.get_running_loop().time() + self.settings.timeout

    def classify(self, predictor: Predictor, image: bytes, *, top_k: int, deadline: float) -> asyncio.Task[Ranked]:
        """Begin to classify an image; the room that it has taken is free once it is classified and kept, not before.

        Args:
            predictor: The model.
            image: The bytes of a file.
            top_k: How many labels to name.
            deadline: When nobody waits for it any more.
        """

        async def work() -> Ranked:
            if not image:
                raise UnreadableImage("the image is empty", reason="is empty", is_image=False)
            scores = await self.batcher.submit(image, predictor.prepare, predictor.scores, deadline=deadline)
            [ranked] = rank(scores[None], predictor.classes, top_k=top_k)
            if not ranked:
                raise UnreadableImage(NOT_FINITE, reason=f"has no answer: {NOT_FINITE}")
            return ranked

        def done(task: asyncio.Task[Ranked]) -> None:
            self._tasks.discard(task)
            # That nobody waits for it any more is no reason to complain of its exception.
            if not self.storage.keeps or task.cancelled() or task.exception() is not None:
                self.rooms.free(1)
            else:
                self._keep(image, answers.answer(task.result(), model=identify(predictor)))

        task = asyncio.get_running_loop().create_task(work())
        self._tasks.add(task)
        task.add_done_callback(done)
        return task

    def _keep(self, image: bytes, answer: Answer) -> None:
        """Keep an image and its answer, which does not wait for the disk; its room is free afterwards."""

        def done(task: asyncio.Task[None]) -> None:
            self._keeping.discard(task)
            self.rooms.free(1)

        work = asyncio.to_thread(self.storage.keep, image, answer.model_dump())
        task = asyncio.get_running_loop().create_task(work)
        self._keeping.add(task)
        task.add_done_callback(done)


def _endpoints(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/health", summary="Whether the process is alive")
    async def health() -> Health:
        return Health(status="healthy")

    @router.get("/ready", summary="Whether it can predict", responses=answers.failures(503))
    async def ready() -> Health:
        service.model.get_now()
        return Health(status="ready")

    @router.get("/info", summary="What the model is and takes", responses=answers.failures(401, 503))
    async def info() -> dict[str, Any]:
        return describe(await service.model.get(), service.settings)

    @router.post(
        "/predict",
        summary="Classify one image",
        openapi_extra=answers.ONE_IMAGE,
        responses=answers.failures(400, 401, 408, 413, 415, 422, 503, 504),
    )
    async def predict(request: Request, top_k: TopK = 5) -> Answer:
        deadline = service.deadline()
        predictor = await service.model.get()
        service.rooms.take(1)
        try:
            image = await read_image(request, deadline=deadline)
        except BaseException:
            service.rooms.free(1)
            raise
        task = service.classify(predictor, image, top_k=top_k, deadline=deadline)
        async with asyncio.timeout_at(deadline):
            ranked = await asyncio.shield(task)
        return answers.answer(ranked, model=identify(predictor))

    @router.post(
        "/predict/batch",
        summary="Classify several images",
        openapi_extra=answers.SEVERAL_IMAGES,
        responses=answers.failures(400, 401, 408, 413, 415, 422, 503),
    )
    async def predict_batch(request: Request, top_k: TopK = 5) -> Batch:
        deadline = service.deadline()
        predictor = await service.model.get()
        service.rooms.take(1)
        try:
            uploads = await read_images(request, most=service.settings.max_files, deadline=deadline)
            service.rooms.take(len(uploads) - 1)
        except BaseException:
            service.rooms.free(1)
            raise
        tasks = [service.classify(predictor, upload.content, top_k=top_k, deadline=deadline) for upload in uploads]
        await asyncio.wait(tasks, timeout=max(0, deadline - asyncio.get_running_loop().time()))
        model = identify(predictor)
        results = [_outcome(upload.name, task, model=model) for upload, task in zip(uploads, tasks, strict=True)]
        return Batch(results=results, model=model)

    return router


def _outcome(name: str, task: asyncio.Task[Ranked], *, model: str) -> Outcome:
    """Say what became of one image of several."""
    error = task.exception() if task.done() else TimeoutError()
    if error is None:
        said = answers.answer(task.result(), model=model)
        return Outcome(name=name, status=200, label=said.label, confidence=said.confidence, top_k=said.top_k)
    if not isinstance(error, UnreadableImage | TimeoutError):
        raise error
    status, reason = _unreadable(error) if isinstance(error, UnreadableImage) else (504, _LATE)
    return Outcome(name=name, status=status, detail=reason)


# -------------------------------------------------------------------------------------------------- what goes wrong

_LATE = "no answer in time; send it again later, or a smaller image"


def _unreadable(error: UnreadableImage) -> tuple[int, str]:
    """Tell what is no image at all from images that cannot be used."""
    return (422 if error.is_image else 415), f"the image {error.reason}"


async def _on_unreadable(_: Request, error: Exception) -> Response:
    assert isinstance(error, UnreadableImage)
    status, reason = _unreadable(error)
    return failure(status, reason)


async def _on_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return failure(error.status_code, error.detail, headers=dict(error.headers or {}))


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return failure(422, f"{first['loc'][-1]}={first.get('input')!r}: {first['msg']}"[:300])


async def _on_busy(_: Request, __: Exception) -> Response:
    return failure(503, "too many requests at once; send it again", headers={"Retry-After": "1"})


async def _on_not_ready(_: Request, error: Exception) -> Response:
    return failure(503, str(error), headers={"Retry-After": "5"})


async def _on_late(_: Request, __: Exception) -> Response:
    return failure(504, _LATE)


async def _on_failure(_: Request, __: Exception) -> Response:
    return failure(500, "the service failed; its log says why")  # it is logged where requests are watched


_ANSWERS: dict[type[Exception], Any] = {
    Exception: _on_failure,
    UnreadableImage: _on_unreadable,
    HTTPException: _on_http,
    RequestValidationError: _on_invalid,
    Busy: _on_busy,
    NotReady: _on_not_ready,
    TimeoutError: _on_late,
}
