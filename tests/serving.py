"""A tiny exported model, and really running servers around it."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import nn

CLASSES = ["cat", "dog", "sea lion", "<b>&", "éléphant"]
WITHOUT_TORCH = (
    "import sys\n"
    "for name in ('torch', 'torchvision', 'timm', 'lightning', 'torchmetrics', 'jsonargparse', 'matplotlib'):\n"
    "    sys.modules[name] = None\n"
    "from clf.main import main\n"
    "sys.exit(main(sys.argv[1:]))\n"
)


def make_export(folder: Path) -> "nn.Module":
    """Export a tiny network with random weights; give the network."""
    import timm  # Here: a server alone needs no torch.
    import torch

    from clf.data.samples import Sample
    from clf.export import ExportRequest, export
    from clf.preprocess import Preprocessing

    torch.manual_seed(0)
    network: Any = timm.create_model("test_resnet", num_classes=len(CLASSES)).eval()
    with torch.no_grad():
        network.get_classifier().weight.mul_(40)  # probabilities that differ
    image = folder.parent / "proof.png"
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(picture())
    samples = [Sample(str(image), "cat")]
    facts = {"run": "tiny/001", "metrics": {"val": {"n": 20, "acc_top1": 0.5, "f1_macro": None}}}
    preprocessing = Preprocessing(size=(64, 64))
    export(ExportRequest(network, CLASSES, preprocessing, 1.5, samples, facts=facts), folder)
    made: nn.Module = network
    return made


def picture(*, size: tuple[int, int] = (60, 50), mode: str = "RGB", seed: int = 0, suffix: str = "PNG") -> bytes:
    """Draw an image; give the bytes of its file."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, suffix)
    return file.getvalue()


@dataclass
class Server:
    """A running server.

    Args:
        url: Where it listens.
        process: What runs.
        folder: Where its output goes.
    """

    url: str
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    @property
    def log(self) -> str:
        return (self.folder / "stderr").read_text()

    @property
    def access(self) -> list[str]:
        return (self.folder / "stdout").read_text().splitlines()

    def logged(self, text: str, *, after: int = 0) -> str:
        """Wait for a line of the access log that holds a text: it is written once the connection is done with."""
        for _ in range(1500):
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended without logging {text!r}")
            if found := [line for line in self.access[after:] if text in line]:
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"{text!r} was never logged")

    def stop(self) -> int:
        """Send SIGTERM; give the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def interrupt(self) -> int:
        """Send SIGINT to all its processes, as a terminal does after Ctrl-C; give the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(60)


@contextmanager
def serving(
    folder: Path,
    *words: str,
    launcher: Sequence[str] = (sys.executable, "-m", "clf"),
    **variables: str | int | float,
) -> Iterator[Server]:
    """Run ``clf serve`` on a free port until the block ends.

    Args:
        folder: Where its output goes.
        words: Flags.
        launcher: What runs ``clf``.
        variables: Settings, as ``CLF_*`` variables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {f"CLF_{name.upper()}": str(value) for name, value in variables.items()}
    command = [*launcher, "serve", "--port", "0", *words]
    with (
        (folder / "stdout").open("wb") as out,
        (folder / "stderr").open("wb") as err,
        subprocess.Popen(command, stdout=out, stderr=err, env=environment, start_new_session=True) as process,
    ):
        try:
            yield Server(_address(folder / "stderr", process), process, folder)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)


def _address(log: Path, process: subprocess.Popen[bytes]) -> str:
    while process.poll() is None:
        if found := re.search(r"running on (http://\S+)", log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")
