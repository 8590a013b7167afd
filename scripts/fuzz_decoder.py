"""Feeds damaged images to the decoders for a while and counts what they should not have done.

``python scripts/fuzz_decoder.py --seconds 300``; needs ``pip install atheris``. What begins is the hostile corpus; what
guides the search is which lines of ``clf`` and Pillow were reached. A finding is any exception but UnreadableImage, a
crash, or an input that takes more than a minute. Exit code 1 where there are findings.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys
import time
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory

from hostile_corpus import CORPUS

LARGEST = 1 << 16
SLOW = 60  # seconds
MEMORY = 2048  # MiB


def write_seeds(folder: Path) -> int:
    """Write the files of the corpus that are small; returns how many."""
    contents = [item.make for item in CORPUS.values() if isinstance(item.make, bytes) and len(item.make) <= LARGEST]
    for number, content in enumerate(contents):
        (folder / f"{number:03d}").write_bytes(content)
    return len(contents)


def fuzz(flags: list[str], findings: Path) -> None:
    """Decode one input after the other; never returns."""
    import atheris

    with atheris.instrument_imports(include=["PIL", "clf"], enable_loader_override=False):
        from clf.crops import read
        from clf.preprocess import UnreadableImage, decode
    file = findings / f".input-{os.getpid()}"

    def look(data: bytes) -> None:
        file.write_bytes(data)
        for decoder in (lambda: decode(data), lambda: read(file, at_least=16)):
            try:
                decoder()
            except UnreadableImage:
                continue
            except Exception as error:
                keep(error, data, findings)

    atheris.Setup([sys.argv[0], *flags], look)
    atheris.Fuzz()


def keep(error: Exception, data: bytes, findings: Path) -> None:
    """Keep the first input that raises an exception at a place."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    name = hashlib.sha256(f"{type(error).__name__} {place.filename}:{place.lineno}".encode()).hexdigest()[:12]
    path = findings / f"{type(error).__name__}-{name}"
    if not path.exists():
        path.write_bytes(data)
        path.with_suffix(".txt").write_text("".join(traceback.format_exception(error)))


def run(seconds: int, findings: Path) -> int:
    """Fuzz for so long, again after each crash; returns how many inputs were decoded."""
    executions, end = 0, time.monotonic() + seconds
    with TemporaryDirectory() as folder:
        print(f"{write_seeds(Path(folder))} seeds, {seconds} seconds", flush=True)
        while (left := round(end - time.monotonic())) > 0:
            limits = {"max_total_time": left, "max_len": LARGEST, "timeout": SLOW, "report_slow_units": SLOW}
            words = [f"-{name}={value}" for name, value in {**limits, "rss_limit_mb": MEMORY}.items()]
            command = [sys.executable, __file__, "--child", str(findings), *words, f"-artifact_prefix={findings}/"]
            said = subprocess.run([*command, folder], stderr=subprocess.PIPE, check=False).stderr.decode(
                errors="replace"
            )
            counts = re.findall(r"^(?:Done |#)(\d+)\b", said, flags=re.MULTILINE)
            if not counts:
                raise SystemExit(f"the fuzzer did not start:\n{said}")
            executions += int(counts[-1])
    return executions


def main() -> None:
    """Fuzz, then say what was done and found."""
    if sys.argv[1:2] == ["--child"]:
        fuzz(sys.argv[3:], Path(sys.argv[2]))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=300, help="how long (300)")
    parser.add_argument("--findings", type=Path, default=Path("findings"), help="folder of what was found (findings)")
    flags = parser.parse_args()
    flags.findings.mkdir(parents=True, exist_ok=True)
    executions = run(flags.seconds, flags.findings)
    found = [path.name for path in sorted(flags.findings.iterdir()) if path.suffix != ".txt" and path.name[0] != "."]
    print(f"{executions} executions, {len(found)} findings{''.join(f' {name}' for name in found)}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
