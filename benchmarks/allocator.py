"""How much faster training steps on a CPU are where freed memory is kept: ``python benchmarks/allocator.py``.

Alternates fresh processes that train the same network on the same random batches, with `clf.allocator` and without it.
"""

import sys
from functools import partial

import measuring

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
    """Compare images per second of both."""
    parser = measuring.arguments(__doc__)
    parser.add_argument("--arch", default="tf_efficientnet_lite0")
    parser.add_argument("--image_size", type=int, default=80)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    flags = measuring.parse(parser)
    words = [flags.arch, *map(str, (flags.image_size, flags.batch_size, flags.steps, flags.threads))]
    speeds = measuring.alternate(
        {kind: partial(measuring.said, [sys.executable, "-c", _STEPS, *words, kind]) for kind in ("kept", "without")},
        rounds=flags.rounds,
        warm=False,
    )
    peers = {"without": speeds["without"]}
    measuring.record(
        flags.record, "allocator", speeds["kept"], unit="images/s", peers=peers, threads=flags.threads, arch=flags.arch
    )


if __name__ == "__main__":
    main()
