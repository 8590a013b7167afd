"""Seeds as functions of where a run is, so that what is drawn depends on nothing else."""

from hashlib import blake2b


def mix_seed(*parts: int) -> int:
    """Mix integers into one seed.

    Args:
        parts: E.g. (seed, epoch, index); order matters.
    Returns:
        A stable number in [0, 2^63), the same on every machine.
    """
    data = b"".join(part.to_bytes(8, "little", signed=True) for part in parts)
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little") >> 1
