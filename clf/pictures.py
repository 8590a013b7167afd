"""A run's pictures: drawn beside training, kept in ``plots/``, and handed to the trackers."""

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from clf.artist import Artist, Drawing
from clf.tracking import log_picture

log = logging.getLogger("clf")

_PATIENCE = 10.0
"""Seconds for the last pictures of a run that is cut off; its checkpoint is written by then."""


class Pictures(Callback):
    """Draws for the callbacks of a run, in the first process only.

    A picture that cannot be drawn is a warning: nothing else depends on it. Trackers get a picture at the end of the
    epoch in which it is done.

    A callback that draws has an attribute ``pictures``, `Pictures(None)` until `clf.attaching.place` knows better.

    Args:
        folder: Where the pictures go; null draws none.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._artist = Artist()
        self._no_room: Path | None = None

    def draw(self, name: str, figure: Callable[..., Any], *, key: str, step: int = 0, **numbers: Any) -> None:
        """Have a picture drawn; returns at once.

        Args:
            name: File, without its suffix; may name a folder, e.g. ``epochs/confusion_matrix_003``.
            figure: Function of `clf.figures` that returns a matplotlib figure; has to be importable by its name.
            key: What trackers call it, e.g. ``val/confusion_matrix``.
            step: The training step that it shows.
            numbers: What ``figure`` is called with.
        """
        if self.folder is not None:
            self._artist.submit(Drawing(self.folder / f"{name}.png", figure, numbers, key, step))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hand over what is done."""
        self._hand_over(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for what is not done yet."""
        self._artist.finish()
        self._hand_over(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw what is asked for: a resumed run may have no reason to. Who interrupts a run does not wait for long."""
        self._artist.finish(within=_PATIENCE)

    def require_room(self) -> None:
        """Fail if pictures are missing for the one reason that concerns everything else, too.

        Raises:
            OSError: If there was no room for a picture.
        """
        if self._no_room is not None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._no_room))

    def _hand_over(self, trainer: Trainer) -> None:
        for drawing, error in self._artist.collect():
            if error:
                log.warning("%s was not drawn: %s", drawing.path.name, error)
                if os.strerror(errno.ENOSPC) in error:
                    self._no_room = drawing.path
            else:
                log_picture(trainer.loggers, drawing.path, key=drawing.key, step=drawing.step)
