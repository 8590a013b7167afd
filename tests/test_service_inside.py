"""What a real server cannot be made to do on demand: a decoder that hangs, a network that fails."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving import make_export, picture
from starlette.types import Message

from clf.files import replace_file
from clf.predictor import Predictor
from clf.service.app import create
from clf.service.settings import Settings


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "export"
    make_export(folder)
    return str(folder)


def play(
    settings: Settings,
    scene: Callable[[httpx.AsyncClient], Awaitable[None]],
    *,
    after: Callable[[], None] = lambda: None,
    status: int = 200,
) -> None:
    """Run a scene inside the lifespan of a service that answers with a status, and something right after it."""

    async def run() -> None:
        app = create(settings)
        told: asyncio.Queue[Message] = asyncio.Queue()
        said: asyncio.Queue[Message] = asyncio.Queue()
        life = asyncio.ensure_future(app({"type": "lifespan", "state": {}}, told.get, said.put))
        told.put_nowait({"type": "lifespan.startup"})
        assert (await said.get())["type"] == "lifespan.startup.complete"
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/info")).status_code == status
            await scene(client)
        told.put_nowait({"type": "lifespan.shutdown"})
        assert (await said.get())["type"] == "lifespan.shutdown.complete"
        after()
        await life

    asyncio.run(run())


def test_a_request_whose_time_is_over_gets_504_and_its_room_is_free_once_the_work_is_done(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, prepare = threading.Event(), Predictor.prepare

    def hanging(self: Predictor, image: Any) -> Any:
        if isinstance(image, bytes):
            assert gate.wait(60)
        return prepare(self, image)

    monkeypatch.setattr(Predictor, "prepare", hanging)

    async def scene(client: httpx.AsyncClient) -> None:
        answer = await client.post("/predict", content=picture())
        assert (answer.status_code, "in time" in answer.json()["detail"]) == (504, True)
        assert (await client.post("/predict", content=picture())).status_code == 503, "the thread still works on it"
        gate.set()
        for _ in range(100):
            answer = await client.post("/predict", content=picture())
            if answer.status_code != 503:
                break
            await asyncio.sleep(0.05)
        assert answer.status_code == 200

    try:
        play(Settings(model=model, queue=1, max_files=1, timeout=2), scene)
    finally:
        gate.set()


def test_an_image_of_several_that_is_not_done_in_time_does_not_take_the_others_along(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, prepare, slow = threading.Event(), Predictor.prepare, picture(seed=9)

    def hanging(self: Predictor, image: Any) -> Any:
        if image == slow:
            assert gate.wait(60)
        return prepare(self, image)

    monkeypatch.setattr(Predictor, "prepare", hanging)

    async def scene(client: httpx.AsyncClient) -> None:
        answer = await client.post("/predict/batch", files=[("file", picture()), ("file", slow)])
        assert [each["status"] for each in answer.json()["results"]] == [200, 504]
        gate.set()

    try:
        play(Settings(model=model, timeout=4), scene)
    finally:
        gate.set()


def test_what_fails_inside_is_logged_with_its_request_and_not_told(
    model: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(client: httpx.AsyncClient) -> None:
        def broken(*_: Any) -> Any:
            raise RuntimeError("secret/path")

        monkeypatch.setattr(Predictor, "scores", broken)
        for path, body in (("/predict", {"content": picture()}), ("/predict/batch", {"files": {"file": picture()}})):
            answer = await client.post(path, headers={"X-Request-ID": "lost"}, **body)
            assert answer.status_code == 500
            assert answer.json() == {"detail": "the service failed; its log says why"}
        assert (await client.get("/health")).status_code == 200

    with caplog.at_level(logging.ERROR):
        play(Settings(model=model), scene)
    assert "request lost failed" in caplog.text
    assert "secret/path" in caplog.text


def test_an_output_that_is_not_finite_is_no_prediction(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(client: httpx.AsyncClient) -> None:
        monkeypatch.setattr(Predictor, "scores", lambda _, inputs: np.full((len(inputs), 5), np.nan, np.float32))
        answer = await client.post("/predict", content=picture())
        assert (answer.status_code, "not finite" in answer.json()["detail"]) == (422, True)

    play(Settings(model=model), scene)


def test_a_folder_that_cannot_be_written_is_said_once_and_answers_go_on(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(client: httpx.AsyncClient) -> None:
        (tmp_path / "kept").write_text("in the way")
        for seed in range(3):
            assert (await client.post("/predict", content=picture(seed=seed))).status_code == 200

    with caplog.at_level(logging.ERROR, logger="clf"):
        play(Settings(model=model, uploads_dir=str(tmp_path / "kept")), scene)
    assert caplog.text.count("nothing is kept in") == 1


def test_an_answer_does_not_wait_for_the_disk_but_its_room_and_the_end_of_the_service_do(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, happened = threading.Event(), list[str]()

    def slow(path: Path, write: Callable[[Any], object]) -> None:
        assert gate.wait(60)
        replace_file(path, write)
        happened.append("kept")

    async def scene(client: httpx.AsyncClient) -> None:
        assert (await client.post("/predict", content=picture())).status_code == 200
        happened.append("answered")
        assert (await client.post("/predict", content=picture())).status_code == 503, "the image is still in memory"
        asyncio.get_running_loop().call_later(0.3, gate.set)

    monkeypatch.setattr("clf.service.storage.replace_file", slow)
    settings = Settings(model=model, queue=1, max_files=1, timeout=20, processed_dir=str(tmp_path))
    try:
        play(settings, scene, after=lambda: happened.append("closed"))
    finally:
        gate.set()
    assert happened == ["answered", "kept", "closed"]
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_what_cannot_be_kept_leaves_its_room(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise OSError("no space left")

    async def scene(client: httpx.AsyncClient) -> None:
        for _ in range(3):
            for _ in range(100):
                answer = await client.post("/predict", content=picture())
                if answer.status_code != 503:
                    break
                await asyncio.sleep(0.05)
            assert answer.status_code == 200

    monkeypatch.setattr("clf.service.storage.replace_file", failing)
    play(Settings(model=model, queue=1, max_files=1, uploads_dir=str(tmp_path)), scene)


def test_readiness_does_not_wait_for_a_model_that_is_being_loaded(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def slow(settings: Settings) -> Predictor:
        assert gate.wait(60)
        return Predictor(settings.model)

    async def run() -> None:
        transport = httpx.ASGITransport(create(Settings(model=model, timeout=600)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client, asyncio.timeout(30):
            for _ in range(2):
                answer = await client.get("/ready")
                assert (answer.status_code, answer.json()) == (503, {"detail": "the model is being loaded"})
                assert answer.headers["retry-after"]
            gate.set()
            assert (await client.get("/info")).status_code == 200, "it waits for the model"
            assert (await client.get("/ready")).status_code == 200

    monkeypatch.setattr("clf.service.model._open", slow)
    try:
        asyncio.run(run())
    finally:
        gate.set()
