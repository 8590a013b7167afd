import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import exports
import httpx
import numpy as np
import pytest
import torch
from image_kinds import KINDS
from serving import CLASSES, WITHOUT_TORCH, Server, make_export, picture, serving

from clf.main import main
from clf.preprocess import Preprocessing, decode, evaluation_array


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    folder = tmp_path_factory.mktemp("model") / "export"
    return make_export(folder), folder


@pytest.fixture(scope="module")
def model(network: tuple[torch.nn.Module, Path]) -> Path:
    return network[1]


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits: dict[str, Any] = {"max_bytes": 400_000, "max_pixels": 1_000_000, "max_files": 4}
    with serving(tmp_path_factory.mktemp("server"), "--model", str(model), **limits) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


@pytest.mark.parametrize("name", KINDS)
def test_http_gives_the_networks_own_probabilities(
    client: httpx.Client, network: tuple[torch.nn.Module, Path], name: str
) -> None:
    content = KINDS[name]
    inputs = evaluation_array(decode(content), Preprocessing(size=(64, 64)))
    with torch.inference_mode():
        probs = (network[0](torch.from_numpy(inputs)[None]) / 1.5).softmax(1)[0].numpy()
    bodies: list[dict[str, Any]] = [{"files": {"file": (name, content)}}, {"content": content}]
    for body in bodies:
        answer = client.post("/predict", **body)
        assert answer.status_code == 200, answer.text
        said = {each["label"]: each["confidence"] for each in answer.json()["top_k"]}
        np.testing.assert_allclose([said[label] for label in CLASSES], probs, atol=1e-4)
        assert answer.json()["label"] == CLASSES[int(probs.argmax())]


def test_top_k_decides_how_many_labels_are_named(client: httpx.Client) -> None:
    answer = client.post("/predict?top_k=2", content=picture()).json()
    assert [*answer] == ["label", "confidence", "top_k", "model"]
    assert len(answer["top_k"]) == 2
    assert answer["top_k"][0] == {"label": answer["label"], "confidence": answer["confidence"]}
    assert answer["model"].startswith("tiny/001@")
    assert len(client.post("/predict?top_k=900", content=picture()).json()["top_k"]) == len(CLASSES)


def test_a_batch_says_for_each_file_what_it_is_or_what_is_wrong(client: httpx.Client) -> None:
    bodies = [
        ("a.png", picture(seed=1)),
        ("../notes.txt", b"hello"),
        ("cut.png", picture()[:500]),
        ("b.png", picture()),
    ]
    answer = client.post("/predict/batch?top_k=1", files=[("file", each) for each in bodies])
    results = answer.json()["results"]
    assert answer.status_code == 200
    assert [(each["name"], each["status"]) for each in results] == [
        ("a.png", 200),
        ("../notes.txt", 415),
        ("cut.png", 422),
        ("b.png", 200),
    ]
    alone = client.post("/predict?top_k=1", content=picture()).json()
    assert results[3]["label"] == alone["label"]
    assert results[3]["confidence"] == pytest.approx(alone["confidence"], abs=1e-5)
    assert "none of BMP" in results[1]["detail"]


def test_the_model_says_what_it_is(client: httpx.Client) -> None:
    assert client.get("/health").json() == {"status": "healthy"}
    info = client.get("/info").json()
    assert client.get("/ready").json() == {"status": "ready"}
    assert info["classes"] == CLASSES
    assert info["input"]["size"] == [64, 64]
    assert info["facts"]["metrics"] == {"val": {"n": 20, "acc_top1": 0.5, "f1_macro": None}}
    assert info["limits"]["max_bytes"] == 400_000
    assert {"clf", "onnxruntime"} <= info["versions"].keys()


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "text": ({"content": b"hello"}, 415, "none of BMP"),
    "nothing": ({"content": b""}, 415, "the image is empty"),
    "an empty file": ({"files": {"file": b""}}, 415, "the image is empty"),
    "svg": ({"content": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, 415, "none of BMP"),
    "truncated": ({"content": picture()[:900]}, 422, "cannot be read"),
    "bomb": ({"content": picture(size=(1100, 1000), mode="1")}, 422, "more than 1000000"),
    "large": ({"content": bytes(400_001)}, 413, "larger than 400000 bytes"),
    "large and chunked": ({"content": iter([bytes(1000)] * 500)}, 413, "larger than 400000 bytes"),
    "large form": ({"files": {"file": bytes(400_001)}}, 413, "larger than 400000 bytes"),
    "two files": ({"files": [("file", b"1"), ("file", b"2")]}, 413, "more than 1 image"),
    "other field": ({"files": {"image": picture()}}, 422, "a field called 'file'"),
    "text field": ({"files": {"x": b"1"}, "data": {"file": "photo.jpg"}}, 422, "a field called 'file'"),
    "a charset that is none": (
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=x; charset=undefined"}},
        415,
        "names in a form must be UTF-8",
    ),
    "no boundary": ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary"),
    "no form": (
        {"content": b"hello", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        400,
        "the form cannot be read",
    ),
    "cut form": (
        {
            "content": b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + picture(),
            "headers": {"Content-Type": "multipart/form-data; boundary=x"},
        },
        422,
        "a field called 'file'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_image_is_refused_in_one_sentence(client: httpx.Client, case: str) -> None:
    body, status, reason = WRONG[case]
    answer = client.post("/predict", **body)
    assert (answer.status_code, [*answer.json()]) == (status, ["detail"])
    assert reason in answer.json()["detail"]
    assert "remove it" not in answer.json()["detail"], "that is advice for a file of one's own"


def test_parameters_and_paths_that_are_wrong_are_named(client: httpx.Client) -> None:
    for top_k in ("0", "-1", "x", "1001"):
        answer = client.post(f"/predict?top_k={top_k}", content=picture())
        assert answer.status_code == 422
        assert answer.json()["detail"].startswith(f"top_k={top_k!r}: ")
    assert client.get("/predict").status_code == 405
    assert client.get("/../etc/passwd").status_code == 404
    assert client.post("/predict/batch", content=picture()).status_code == 415
    assert client.post("/predict/batch", files=[("file", picture())] * 5).status_code == 413


def test_every_answer_has_security_headers_and_a_request_id(client: httpx.Client) -> None:
    for path in ("/", "/docs", "/health", "/nothing", "/page/page.js"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]
        assert "server" not in headers
        assert headers["x-request-id"]
    assert client.get("/health", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    forged = client.get("/health", headers={"X-Request-ID": 'a"b c'}).headers["x-request-id"]
    assert forged.isalnum(), "what could forge a line of the log is replaced"


def test_the_access_log_has_one_json_object_a_request(client: httpx.Client, server: Server) -> None:
    client.post("/predict", content=b"hello", headers={"X-Request-ID": "to-be-found"})
    line = json.loads(server.logged("to-be-found"))
    assert sum("to-be-found" in each for each in server.access) == 1
    assert (line["method"], line["path"], line["status"]) == ("POST", "/predict", 415)
    assert line["ms"] > 0
    assert not any('"/health"' in line for line in server.access), "health checks would drown the rest"


def test_the_description_of_the_api_names_every_endpoint_and_its_failures(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {*paths} == {"/health", "/ready", "/info", "/predict", "/predict/batch"}
    assert {"200", "401", "413", "415", "422", "503", "504"} <= paths["/predict"]["post"]["responses"].keys()
    assert "multipart/form-data" in paths["/predict"]["post"]["requestBody"]["content"]


def test_concurrent_requests_get_their_own_answers(client: httpx.Client) -> None:
    images = [picture(seed=seed, size=(40 + seed, 50)) for seed in range(24)]
    alone = [client.post("/predict", content=image).json()["top_k"][0] for image in images]
    with ThreadPoolExecutor(12) as pool:
        together = [*pool.map(lambda image: client.post("/predict", content=image).json()["top_k"][0], images)]
    assert [each["label"] for each in together] == [each["label"] for each in alone]
    np.testing.assert_allclose([e["confidence"] for e in together], [e["confidence"] for e in alone], atol=1e-5)


# ------------------------------------------------------------------------------------------------- servers of their own


def test_it_serves_where_torch_is_not_installed(model: Path, tmp_path: Path) -> None:
    with serving(tmp_path, "--model", str(model), launcher=(sys.executable, "-c", WITHOUT_TORCH)) as running:
        assert httpx.post(f"{running.url}/predict", content=picture()).json()["label"] in CLASSES


def test_importing_it_imports_no_torch() -> None:
    heavy = "{'torch', 'timm', 'lightning', 'matplotlib', 'jsonargparse'}"
    code = f"import clf.predictor, clf.serve, clf.service.app, sys; assert not {heavy} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_a_model_it_is_healthy_and_not_ready_until_one_appears(model: Path, tmp_path: Path) -> None:
    place = tmp_path / "later"
    with serving(tmp_path / "server", model=str(place)) as running, httpx.Client(base_url=running.url) as client:
        assert client.get("/health").status_code == 200
        for answer in (client.get("/info"), client.get("/ready"), client.post("/predict", content=picture())):
            assert answer.status_code == 503
            assert "does not exist" in answer.json()["detail"]
            assert answer.headers["retry-after"]
        place.symlink_to(model)
        until_ready(client)
        assert client.post("/predict", content=picture()).status_code == 200


def until_ready(client: httpx.Client) -> None:
    for _ in range(600):
        if client.get("/ready").status_code == 200:
            return
        time.sleep(0.1)
    raise AssertionError("never ready")


def test_a_label_that_no_json_can_carry_is_spelled_out(tmp_path: Path) -> None:
    exports.exported(tmp_path, classes=["caf\udce9", "b", "c"])
    storage = {"uploads_dir": str(tmp_path / "up"), "processed_dir": str(tmp_path / "done")}
    with serving(tmp_path / "server", "--model", str(tmp_path / "export"), **storage) as running:
        answer = httpx.post(f"{running.url}/predict", content=picture())
        assert answer.status_code == 200
        assert {each["label"] for each in answer.json()["top_k"]} == {"caf\\udce9", "b", "c"}
        assert "caf\\udce9" in httpx.get(f"{running.url}/info").json()["classes"]
    assert len(list((tmp_path / "done").iterdir())) == 1


def test_the_health_check_asks_the_port_that_is_set(model: Path, tmp_path: Path) -> None:
    def check(**environment: str) -> int:
        command = [sys.executable, "-m", "clf.service.alive"]
        return subprocess.run(command, env=os.environ | environment, check=False).returncode

    with serving(tmp_path, "--model", str(model)) as running:
        port = str(running.address[1])
        assert check(CLF_PORT=port) == 0
    assert check(CLF_PORT=port) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "999.1.1.1"])
def test_an_address_that_cannot_be_had_is_one_line(model: Path, host: str, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(("serve", "--model", str(model), "--host", host, "--port", str(port))) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"clf: cannot listen on {host}:{port}: ")
    assert line.endswith("; choose another --host or --port")


def test_a_model_that_was_tampered_with_is_never_ready(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tampered"
    folder.mkdir()
    for name in ("model.onnx", "labels_mapping.json"):
        (folder / name).write_bytes((model / name).read_bytes())
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with serving(tmp_path / "server", "--model", str(folder)) as running:
        assert httpx.get(f"{running.url}/info").status_code == 503, "it waits for the attempt"
        answer = httpx.get(f"{running.url}/ready")
        assert answer.status_code == 503
        assert "do not belong together" in answer.json()["detail"]


def test_the_key_is_needed_everywhere_but_for_health_readiness_and_the_page(model: Path, tmp_path: Path) -> None:
    with (
        serving(tmp_path, "--model", str(model), api_key="open sesame") as running,
        httpx.Client(base_url=running.url) as client,
    ):
        until_ready(client)
        for path in ("/health", "/ready", "/", "/docs", "/openapi.json", "/page/page.css"):
            assert client.get(path).status_code == 200
        for headers in ({}, {"X-API-Key": "open"}, {"X-API-Key": "ÿ".encode("latin-1")}, {"Authorization": "Basic x"}):
            for answer in (
                client.get("/info", headers=headers),  # type: ignore[arg-type]
                client.get("/nothing", headers=headers),  # type: ignore[arg-type]
                client.post("/predict", content=picture(), headers=headers),  # type: ignore[arg-type]
                client.post("/predict/batch", headers=headers),  # type: ignore[arg-type]
            ):
                assert answer.status_code == 401
                assert "X-API-Key" in answer.json()["detail"]
        for good in ({"X-API-Key": "open sesame"}, {"Authorization": "Bearer open sesame"}):
            assert client.post("/predict", content=picture(), headers=good).status_code == 200
        assert "open sesame" not in running.log + "".join(running.access)


def begin(running: Server, body: bytes, *, send: int) -> socket.socket:
    """Send a request up to a place in its body; when this returns, the service is reading it."""
    opened = socket.create_connection(running.address, timeout=60)
    words = ("POST /predict HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", "Expect: 100-continue")
    opened.sendall("\r\n".join([*words, "Connection: close", "", ""]).encode())
    assert opened.recv(65536).startswith(b"HTTP/1.1 100"), "what the service says once it wants the body"
    opened.sendall(body[:send])
    return opened


def finish(opened: socket.socket, rest: bytes = b"") -> str:
    """Send the rest; give the answer."""
    with opened:
        opened.sendall(rest)
        parts = [*iter(lambda: opened.recv(65536), b"")]
    return b"".join(parts).decode()


def test_a_full_house_sends_back_and_is_open_again_afterwards(model: Path, tmp_path: Path) -> None:
    body = picture()
    with (
        serving(tmp_path, "--model", str(model), queue=1, max_files=1) as running,
        httpx.Client(base_url=running.url) as client,
    ):
        until_ready(client)
        slow = begin(running, body, send=100)
        answer = client.post("/predict", content=body)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert client.get("/health").status_code == 200
        assert finish(slow, body[100:]).startswith("HTTP/1.1 200")
        assert client.post("/predict", content=body).status_code == 200


def test_a_body_that_does_not_come_is_given_up_and_leaves_no_trace(model: Path, tmp_path: Path) -> None:
    body = picture()
    with (
        serving(tmp_path, "--model", str(model), queue=1, max_files=1, timeout=0.5) as running,
        httpx.Client(base_url=running.url) as client,
    ):
        until_ready(client)
        assert finish(begin(running, body, send=100)).startswith("HTTP/1.1 408")
        begin(running, body, send=100).close()
        answers = (client.post("/predict", content=body).status_code for _ in range(1000))
        assert next(status for status in answers if status != 503) == 200, "the one that hung up takes no room"


def test_sigterm_lets_requests_under_way_finish(model: Path, tmp_path: Path) -> None:
    body = picture()
    with serving(tmp_path, "--model", str(model)) as running, httpx.Client(base_url=running.url) as client:
        until_ready(client)
        slow = begin(running, body, send=100)
        running.process.terminate()
        for _ in range(600):
            if "Shutting down" in running.log:
                break
            time.sleep(0.1)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{running.url}/health")
        assert finish(slow, body[100:]).startswith("HTTP/1.1 200")
        assert running.process.wait(60) == -15, "143 in a shell"
        assert "Traceback" not in running.log


@pytest.mark.parametrize(("workers", "code"), [(1, 130), (2, 0)])
def test_ctrl_c_lets_a_request_under_way_finish(model: Path, tmp_path: Path, workers: int, code: int) -> None:
    body = picture()
    with serving(tmp_path, "--model", str(model), "--workers", str(workers)) as running:
        with httpx.Client(base_url=running.url, timeout=60, transport=httpx.HTTPTransport(retries=5)) as client:
            until_ready(client)
        slow = begin(running, body, send=100)
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(running.interrupt)
            while "Shutting down" not in running.log:
                assert not ended.done(), running.log
                time.sleep(0.05)
            assert finish(slow, body[100:]).startswith("HTTP/1.1 200")
            assert ended.result() == code
        assert "Traceback" not in running.log


def test_several_processes_answer_and_stop_together(model: Path, tmp_path: Path) -> None:
    with serving(tmp_path, "--model", str(model), "--workers", "2") as running:
        with httpx.Client(base_url=running.url, timeout=60, transport=httpx.HTTPTransport(retries=5)) as client:
            until_ready(client)
            assert client.post("/predict", content=picture()).json()["label"] in CLASSES
        assert running.stop() == 0
        assert running.log.count("Application startup complete") == 2


def test_uploads_and_results_are_kept_under_their_hash_up_to_a_number(model: Path, tmp_path: Path) -> None:
    folders = {"uploads_dir": tmp_path / "up", "processed_dir": tmp_path / "done"}
    with (
        serving(
            tmp_path / "server", "--model", str(model), keep=2, **{k: str(v) for k, v in folders.items()}
        ) as running,
        httpx.Client(base_url=running.url) as client,
    ):
        until_ready(client)
        first = client.post("/predict", files={"file": ("../../evil.sh", picture(seed=1, suffix="JPEG"))}).json()
        digests = [hashlib.sha256(picture(seed=seed, suffix=suffix)).hexdigest() for seed, suffix in KEPT]
        until_names(folders["uploads_dir"], {f"{digests[0]}.jpg"})
        until_names(folders["processed_dir"], {f"{digests[0]}.json"})
        [kept], [result] = [[*folder.iterdir()] for folder in folders.values()]
        assert kept.read_bytes() == picture(seed=1, suffix="JPEG")
        assert (kept.suffix, len(kept.stem), result.name) == (".jpg", 64, f"{kept.stem}.json")
        assert json.loads(result.read_text()) == {"sha256": kept.stem, **first}
        client.post("/predict", content=b"hello")
        for seed in (2, 3, 3):
            client.post("/predict", content=picture(seed=seed))
        until_names(folders["uploads_dir"], {f"{digest}.png" for digest in digests[1:]})
        until_names(folders["processed_dir"], {f"{digest}.json" for digest in digests[1:]})


KEPT = ((1, "JPEG"), (2, "PNG"), (3, "PNG"))


def until_names(folder: Path, names: set[str]) -> None:
    """Wait until these files are in a folder, and no others: they are written after the answer."""
    for _ in range(600):
        found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if found == names:
            return
        time.sleep(0.1)
    raise AssertionError(f"{folder} has {found}")
