"""Who means harm: bodies without end, headers by the thousand, forms of nothing but parts; the service stays small."""

import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from serving import Server, make_export, picture, serving

MEBIBYTE = bytes(1 << 20)
FORM = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("service")
    make_export(folder / "export")
    model = str(folder / "export")
    with serving(folder / "server", "--model", model, max_bytes=2_000_000, timeout=20) as running:
        assert httpx.post(f"{running.url}/predict", content=picture(), timeout=60).status_code == 200
        yield running


def held(server: Server) -> int:
    """Memory of the service in MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) // 1024


def send(server: Server, head: str, parts: Iterator[bytes]) -> str:
    """Send as much as the service takes; give its status line, empty where it hangs up without one."""
    with closing(socket.create_connection(server.address, timeout=60)) as opened:
        try:
            opened.sendall(head.replace("\n", "\r\n").encode())
            for part in parts:
                opened.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has said what it thinks of it
        try:
            return opened.recv(1000).decode("latin-1").partition("\r\n")[0]
        except ConnectionResetError:
            return ""


def assert_well(server: Server, *, before: int) -> None:
    assert httpx.post(f"{server.url}/predict", content=picture(), timeout=60).status_code == 200
    assert held(server) < before + 64


def chunks(start: bytes = b"") -> Iterator[bytes]:
    if start:
        yield b"%x\r\n%s\r\n" % (len(start), start)
    for _ in range(1024):
        yield b"100000\r\n" + MEBIBYTE + b"\r\n"


@pytest.mark.parametrize(
    ("head", "parts"),
    [
        (f"Content-Length: {1 << 30}", lambda: iter([MEBIBYTE] * 1024)),
        ("Transfer-Encoding: chunked", chunks),
        ("Transfer-Encoding: chunked\nContent-Type: multipart/form-data; boundary=x", lambda: chunks(FORM)),
        (f"Content-Length: {1 << 30}\nExpect: 100-continue", lambda: iter(())),
    ],
    ids=["announced", "chunked", "form", "expected"],
)
def test_a_gibibyte_is_refused_before_it_has_come(server: Server, head: str, parts: object) -> None:
    before, logged = held(server), len(server.access)
    said = send(server, f"POST /predict HTTP/1.1\nHost: x\n{head}\n\n", parts())  # type: ignore[operator]
    assert said in ("HTTP/1.1 413 Content Too Large", "HTTP/1.1 413 Request Entity Too Large", "")
    assert_well(server, before=before)
    assert server.logged('"status": 413', after=logged)


def test_ten_thousand_headers_are_refused(server: Server) -> None:
    before = held(server)
    many = "".join(f"X-{number}: {'y' * 100}\n" for number in range(10_000))
    said = send(server, f"GET /health HTTP/1.1\nHost: x\n{many}\n", iter(()))
    assert said.startswith("HTTP/1.1 4") or not said, "it may hang up before the last of them has come"
    assert_well(server, before=before)


@pytest.mark.parametrize("name", ["file", "other"])
def test_a_form_of_ten_thousand_parts_is_refused(server: Server, name: str) -> None:
    before = held(server)
    part = f'--x\r\nContent-Disposition: form-data; name="{name}"; filename="a"\r\n\r\n.\r\n'
    answer = httpx.post(
        f"{server.url}/predict/batch",
        content=part.encode() * 10_000 + b"--x--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
        timeout=60,
    )
    assert answer.status_code in (400, 413)
    assert "detail" in answer.json()
    assert_well(server, before=before)


def test_a_hundred_clients_that_say_nothing_more_do_not_keep_others_out(server: Server) -> None:
    before = held(server)
    opened = [socket.create_connection(server.address, timeout=60) for _ in range(100)]
    try:
        for each in opened:
            each.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Le")
        assert_well(server, before=before)
    finally:
        for each in opened:
            each.close()
    assert_well(server, before=before)
