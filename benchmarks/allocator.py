"""How much faster training steps on a CPU are where freed memory is kept: ``python benchmarks/allocator.py``.

Alternates fresh processes that train the same network on the same random batches, with `clf.allocator` and without it.
"""

import argparse
import statistics
import subprocess
import sys

_STEPS = """
import sys, time, timm, torch
from clf.allocator import keep_freed_memory
arch, size, batch, steps, threads = sys.argv[1], *map(int, sys.argv[2:6])
if sys.argv[6] == "kept":
    assert keep_freed_memory()
torch.set_num_threads(threads)
torch.manual_seed(0)
network = timm.create_model(arch, num_classes=42).to(memory_format=torch.channels_last).train()
optimizer = torch.optim.AdamW(network.parameters())
images = torch.randn(batch, 3, size, size).contiguous(memory_format=torch.channels_last)
labels = torch.randint(42, (batch,))
for step in range(-2, steps):
    if step == 0:
        start = time.perf_counter()
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(network(images), labels).backward()
    optimizer.step()
print(batch * steps / (time.perf_counter() - start))
"""


def main() -> None:
    """Print images per second of both, median and all, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="tf_efficientnet_lite0")
    parser.add_argument("--image_size", type=int, default=80)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    flags = parser.parse_args()
    words = [flags.arch, *map(str, (flags.image_size, flags.batch_size, flags.steps, flags.threads))]
    speeds: dict[str, list[float]] = {"plain": [], "kept": []}
    for _ in range(flags.rounds):
        for name, found in speeds.items():
            command = [sys.executable, "-c", _STEPS, *words, name]
            found.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    for name, found in speeds.items():
        print(f"{name:>6}: median {statistics.median(found):.0f} images/s of {[round(speed) for speed in found]}")
    print(f"kept/plain: {statistics.median(speeds['kept']) / statistics.median(speeds['plain']):.2f}")


if __name__ == "__main__":
    main()
