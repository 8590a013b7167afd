import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from clf.service.batching import Batcher, Busy, Rooms


class Network:
    """Doubles what it gets, and remembers in which batches that came; waits at a gate."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.sizes: list[int] = []

    def __call__(self, stacked: NDArray[Any]) -> NDArray[np.float32]:
        self.sizes.append(len(stacked))
        self.begun.set()
        assert self.gate.wait(60)
        if (stacked < 0).any():
            raise ArithmeticError("negative")
        return np.asarray(2 * stacked, np.float32)


def prepare(image: bytes) -> NDArray[Any]:
    if not image:
        raise ValueError("no image")
    return np.array([float(image)])


def play(scene: Callable[[Batcher, Network], Awaitable[None]], *, size: int = 8, wait: float = 60) -> Network:
    network = Network()

    async def run() -> None:
        batcher = Batcher(size=size, wait=wait, decoders=2)
        batcher.start()
        try:
            async with asyncio.timeout(60):
                await scene(batcher, network)
        finally:
            network.gate.set()
            await batcher.close()

    asyncio.run(run())
    return network


def later() -> float:
    return asyncio.get_running_loop().time() + 60


def test_what_comes_while_the_network_works_goes_through_it_together_in_order() -> None:
    async def scene(batcher: Batcher, network: Network) -> None:
        first = asyncio.create_task(batcher.submit(b"0", prepare, network, deadline=later()))
        await asyncio.to_thread(network.begun.wait, 60)
        rest = [
            asyncio.create_task(batcher.submit(b"%d" % n, prepare, network, deadline=later())) for n in range(1, 12)
        ]
        await asyncio.sleep(0.3)
        network.gate.set()
        assert [float(scores[0]) for scores in await asyncio.gather(first, *rest)] == [2.0 * n for n in range(12)]

    assert play(scene).sizes == [1, 8, 3]


def test_a_lone_image_waits_for_nobody() -> None:
    async def scene(batcher: Batcher, network: Network) -> None:
        network.gate.set()
        assert await batcher.submit(b"3", prepare, network, deadline=later()) == [6]

    assert play(scene, wait=1e6).sizes == [1]


def test_a_batch_waits_for_an_image_that_is_being_decoded_but_not_for_ever() -> None:
    held = threading.Event()

    def slow(image: bytes) -> NDArray[Any]:
        assert held.wait(60)
        return prepare(image)

    async def scene(batcher: Batcher, network: Network) -> None:
        network.gate.set()
        late = asyncio.create_task(batcher.submit(b"1", slow, network, deadline=later()))
        soon = asyncio.create_task(batcher.submit(b"2", prepare, network, deadline=later()))
        if batcher_waits:
            held.set()
        assert await soon == [4]
        held.set()
        assert await late == [2]

    batcher_waits = True
    assert play(scene, wait=1e6).sizes == [2]
    batcher_waits = False
    held.clear()
    assert play(scene, wait=0.01).sizes == [1, 1]


def test_batches_of_one_are_no_batching() -> None:
    async def scene(batcher: Batcher, network: Network) -> None:
        network.gate.set()
        await asyncio.gather(*(batcher.submit(b"1", prepare, network, deadline=later()) for _ in range(5)))

    assert play(scene, size=1).sizes == [1] * 5


def test_an_image_that_cannot_be_read_harms_no_other() -> None:
    async def scene(batcher: Batcher, network: Network) -> None:
        network.gate.set()
        images = (b"", b"1")
        bad, good = await asyncio.gather(
            *(batcher.submit(image, prepare, network, deadline=later()) for image in images), return_exceptions=True
        )
        assert isinstance(bad, ValueError)
        assert good == [2]

    play(scene)


def test_a_failing_network_fails_its_batch_and_not_the_next() -> None:
    async def scene(batcher: Batcher, network: Network) -> None:
        network.gate.set()
        with pytest.raises(ArithmeticError):
            await batcher.submit(b"-1", prepare, network, deadline=later())
        assert await batcher.submit(b"1", prepare, network, deadline=later()) == [2]

    play(scene)


def test_nothing_is_computed_for_who_is_no_longer_waiting() -> None:
    async def scene(batcher: Batcher, network: Network) -> None:
        first = asyncio.create_task(batcher.submit(b"0", prepare, network, deadline=later()))
        await asyncio.to_thread(network.begun.wait, 60)
        soon = asyncio.get_running_loop().time() + 0.2
        waiting = asyncio.create_task(batcher.submit(b"1", prepare, network, deadline=soon))
        await asyncio.sleep(0.4)
        network.gate.set()
        with pytest.raises(TimeoutError):
            await waiting
        with pytest.raises(TimeoutError):
            await batcher.submit(b"1", prepare, network, deadline=0)
        assert await first == [0]

    assert play(scene).sizes == [1]


def test_no_more_come_in_than_there_is_room_for() -> None:
    rooms = Rooms(3)
    rooms.take(2)
    with pytest.raises(Busy):
        rooms.take(2)
    rooms.take(1)
    rooms.free(3)
    rooms.take(3)
