"""What the service answers under load: ``python benchmarks/service.py runs/demo/001/export IMAGE``.

Three servers get the same requests in turn, from hey (Debian's package) on the same machine, over loopback:

- batched: ``clf serve`` as it comes;
- unbatched: ``clf serve --batch_size 1``;
- plain: the endpoint that one writes in an afternoon with FastAPI, Pillow and ONNX Runtime, one image a call. It checks
  nothing and limits nothing.

Then the first one is asked for 20,000 answers, and what memory it holds is read after each quarter; and it is asked by
more clients at once than its queue has places. A rate counts only where every answer is 200: else this stops.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clf.environment import device_name
from clf.service.settings import Settings

BOUNDARY = "clf-benchmark"
SERVERS = {
    "batched": ["-m", "clf", "serve", "--log_level", "warning"],
    "unbatched": ["-m", "clf", "serve", "--log_level", "warning", "--batch_size", "1"],
    "plain": [__file__, "--plain"],
}


@dataclass(frozen=True)
class Load:
    """What hey says of a while of requests.

    Args:
        rate: Answers a second.
        p50: Median latency in milliseconds.
        p99: 99th percentile of the latency in milliseconds.
        statuses: How many answers by status; 0: requests without an answer.
    """

    rate: float
    p50: float
    p99: float
    statuses: dict[int, int]

    def require_success(self, asked: str) -> None:
        """Stop, unless every request was answered with 200."""
        if self.statuses.keys() != {200}:
            raise SystemExit(f"{asked}: not every answer was 200 (0: none came) but {self.statuses}")


def plain(model: Path, port: int) -> None:
    """Serve without batching, limits and checks."""
    import numpy as np
    import onnxruntime
    import uvicorn
    from fastapi import FastAPI, UploadFile
    from PIL import Image

    session = onnxruntime.InferenceSession(model / "model.onnx", providers=["CPUExecutionProvider"])
    facts = json.loads((model / "labels_mapping.json").read_text(encoding="utf-8"))
    mean, std = (np.array(facts["normalization"][name], np.float32) for name in ("mean", "std"))
    height, width = facts["input"]["size"]
    app = FastAPI()

    @app.post("/predict")
    def predict(file: UploadFile) -> dict[str, Any]:
        image = Image.open(file.file).convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        array = (np.asarray(image, np.float32) / 255 - mean) / std
        [[logits]] = session.run(None, {"input": array.transpose(2, 0, 1)[None]})
        odds = np.exp(logits - logits.max())
        best = int(odds.argmax())
        return {"label": facts["idx_to_class"][str(best)], "confidence": float(odds[best] / odds.sum())}

    uvicorn.run(app, port=port, log_level="warning")


@contextmanager
def serving(kind: str, model: Path, port: int, *flags: str) -> Iterator[tuple[str, int]]:
    """Run a server until the block ends: its address and its process."""
    words = ["--port", str(port), *flags] + (["--model", str(model)] if kind != "plain" else [str(model)])
    with subprocess.Popen([sys.executable, *SERVERS[kind], *words], stdout=subprocess.DEVNULL) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(f"{url}/openapi.json" if kind == "plain" else f"{url}/ready")
            yield url, process.pid
        finally:
            process.terminate()
            process.wait(60)


def wait_for(url: str) -> None:
    """Wait until a server answers."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{url} does not answer")


def hey(url: str, body: Path, *words: str) -> Load:
    """Send requests, and read what hey says of the answers."""
    form = ["-m", "POST", "-T", f"multipart/form-data; boundary={BOUNDARY}", "-D", str(body)]
    said = subprocess.run(
        ["hey", "-t", "60", *words, *form, f"{url}/predict"], check=True, capture_output=True, text=True
    ).stdout
    latency = {int(percent): 1000 * float(s) for percent, s in re.findall(r"(\d+)%+ in ([\d.]+) secs", said)}
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    statuses = {int(status): int(count) for status, count in re.findall(r"\[(\d{3})\]\s+(\d+) responses", said)}
    if lost := re.findall(r"\[(\d+)\]", said.partition("Error distribution:")[2]):
        statuses[0] = sum(map(int, lost))
    return Load(float(rate[1]) if rate else 0.0, latency.get(50, 0.0), latency.get(99, 0.0), statuses)


def throughput(model: Path, body: Path, *, rounds: int, seconds: int, concurrency: list[int]) -> None:
    """Compare the servers at each number of clients, one after the other in each round."""
    found: dict[tuple[str, int], list[Load]] = {}
    for number in range(rounds):
        for place, kind in enumerate(SERVERS):
            with serving(kind, model, 18100 + 10 * number + place) as (url, _):
                hey(url, body, "-n", "64", "-c", "8").require_success(f"{kind} while it warms up")
                for clients in concurrency:
                    load = hey(url, body, "-z", f"{seconds}s", "-c", str(clients))
                    load.require_success(f"{kind}, {clients} clients")
                    found.setdefault((kind, clients), []).append(load)
    print("| clients | server | answers/s | p50 ms | p99 ms | of plain |\n| --- | --- | --- | --- | --- | --- |")
    for clients in concurrency:
        base = statistics.median(load.rate for load in found["plain", clients])
        for kind in SERVERS:
            loads = found[kind, clients]
            rate, p50, p99 = (
                statistics.median(getattr(load, name) for load in loads) for name in ("rate", "p50", "p99")
            )
            print(f"| {clients} | {kind} | {rate:.0f} | {p50:.1f} | {p99:.1f} | {rate / base:.2f} |")


def endurance(model: Path, body: Path, *, requests: int) -> None:
    """Read what memory the service holds after each quarter of many requests."""
    with serving("batched", model, 18190) as (url, process):
        held = []
        for _ in range(4):
            load = hey(url, body, "-n", str(requests // 4), "-c", "8")
            load.require_success("batched, 8 clients")
            status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
            held.append(int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) // 1024)
    print(f"memory after each quarter of {requests} requests: {', '.join(f'{each} MiB' for each in held)}")


def saturation(model: Path, body: Path, *, clients: int) -> None:
    """Ask with more clients than there are places, and then once more."""
    places = Settings().queue
    with serving("batched", model, 18191, "--queue", str(places)) as (url, _):
        load = hey(url, body, "-z", "10s", "-c", str(clients))
        after = hey(url, body, "-n", "8", "-c", "1")
        answered = f"statuses {load.statuses}, {load.rate:.0f} answers/s; then {after.statuses}"
        print(f"{clients} clients for {places} places: {answered}")


def main() -> None:
    """Print a table, and two lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--clients", type=int, default=256)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=8000, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.plain:
        plain(flags.model, flags.port)
        return
    if flags.image is None:
        parser.error("name an image that is sent")
    with TemporaryDirectory() as folder:
        body = Path(folder, "body")
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="image"\r\n\r\n'
        body.write_bytes(head.encode() + flags.image.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode())
        size = flags.image.stat().st_size
        print(f"{device_name('cpu')}, {flags.rounds} rounds of {flags.seconds} s, an image of {size} bytes")
        throughput(flags.model, body, rounds=flags.rounds, seconds=flags.seconds, concurrency=flags.concurrency)
        endurance(flags.model, body, requests=flags.requests)
        saturation(flags.model, body, clients=flags.clients)


if __name__ == "__main__":
    main()
