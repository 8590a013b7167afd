"""Concurrent requests share batches: decoding in threads, the network in one, and never more work than fits."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Prepare = Callable[[bytes], NDArray[Any]]
"""Turns the bytes of an image into the network's input."""

Scores = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Turns stacked inputs (N, …) into logits (N, C)."""


class Busy(Exception):
    """Raised where there is no room for more work."""


@dataclass(slots=True, eq=False)
class _Item:
    """One image on its way through the network.

    Args:
        inputs: What the network gets.
        network: The network.
        deadline: When nobody waits for it any more, by the loop's clock.
        scores: Where its logits are waited for.
    """

    inputs: NDArray[Any]
    network: Scores
    deadline: float
    scores: asyncio.Future[NDArray[np.float32]]


class Rooms:
    """Counts images at work, so that no more come in than there is room for.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.taken = 0

    def take(self, count: int) -> None:
        """Take room for so many images, all or none.

        Raises:
            Busy: If there is not enough.
        """
        if self.taken + count > self._most:
            raise Busy
        self.taken += count

    def free(self, count: int) -> None:
        """Give room back."""
        self.taken -= count


class Batcher:
    """Puts images of concurrent requests through the network together.

    While one batch is computed, the next one fills. A batch starts when it is full, when no further image is being
    decoded, or when its first image has waited long enough, so that a lone request is never held up.

    Args:
        size: Most images in a batch.
        wait: Seconds that a batch waits for images that are still being decoded.
        decoders: Threads that decode.
    """

    def __init__(self, *, size: int, wait: float, decoders: int) -> None:
        self._size = size
        self._wait = wait
        self._decoding = 0
        self._decoders = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
        self._network = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._waiting: asyncio.Queue[_Item] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to take images."""
        self._task = asyncio.create_task(self._run(), name="batches")

    async def submit(self, image: bytes, prepare: Prepare, scores: Scores, *, deadline: float) -> NDArray[np.float32]:
        """Decode an image and put it through the network with what else is there.

        Args:
            image: The bytes of a file.
            prepare: How they become the network's input; runs in a thread.
            scores: The network, the same for all; called by one thread at a time.
            deadline: From when on, by the loop's clock, no work is begun for it.
        Returns:
            Its logits, (C,).
        Raises:
            UnreadableImage: If it is none.
            TimeoutError: If its turn came too late.
        """
        loop = asyncio.get_running_loop()

        def decode() -> NDArray[Any]:
            if loop.time() > deadline:
                raise TimeoutError
            return prepare(image)

        self._decoding += 1
        try:
            inputs = await loop.run_in_executor(self._decoders, decode)
        finally:
            self._decoding -= 1
            self._changed.set()
        item = _Item(inputs, scores, deadline, loop.create_future())
        self._waiting.put_nowait(item)
        self._changed.set()
        return await item.scores

    async def close(self) -> None:
        """Stop the threads; what was not begun is given up."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._decoders.shutdown(wait=False, cancel_futures=True)
        self._network.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._collect()
            if not batch:
                continue
            try:
                stacked = np.stack([item.inputs for item in batch])
                rows = await loop.run_in_executor(self._network, batch[0].network, stacked)
            except Exception as error:  # whoever waits must hear of it; the next batch may go well
                for item in batch:
                    if not item.scores.done():
                        item.scores.set_exception(error)
                continue
            for item, row in zip(batch, rows, strict=True):
                if not item.scores.done():
                    item.scores.set_result(row)

    async def _collect(self) -> list[_Item]:
        """Wait for a batch; images whose time is over are left out."""
        batch = [await self._waiting.get()]
        deadline = asyncio.get_running_loop().time() + self._wait
        while len(batch) < self._size:
            if not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
                continue
            if not self._decoding:
                break
            self._changed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                break
        now = asyncio.get_running_loop().time()
        for item in batch:
            if item.deadline < now and not item.scores.done():
                item.scores.set_exception(TimeoutError())
        return [item for item in batch if not item.scores.done()]
