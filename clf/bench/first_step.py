"""A dry fit that says when each phase of its start was over; ``clf bench startup`` runs it in processes of its own."""

import sys
import time

BEGAN = time.time(), time.process_time()  # before anything else is imported

import json  # noqa: E402
from collections.abc import Callable, Sequence  # noqa: E402
from typing import Any  # noqa: E402

from clf.errors import UserError  # noqa: E402

_LINKED = ("classes", "class_counts", "resampled")  # what the model asks of the data before it is built


class Clock:
    """Says how long each phase took.

    Args:
        asked: When the command was given, as `time.time` says it.
    """

    def __init__(self, asked: float) -> None:
        self.phases: dict[str, tuple[float, float]] = {"python starts": (BEGAN[0] - asked, BEGAN[1])}
        self._last = BEGAN

    def end(self, phase: str) -> None:
        """A phase is over, or a part of it: the time since the last one ended was its."""
        now = time.time(), time.process_time()
        wall, processor = self.phases.get(phase, (0.0, 0.0))
        self.phases[phase] = wall + now[0] - self._last[0], processor + now[1] - self._last[1]
        self._last = now


def main(argv: Sequence[str]) -> int:
    """Fit for one step and print the times as JSON.

    Args:
        argv: When the command was given, and the words after ``clf fit``.
    Returns:
        Exit code of the fit.
    """
    asked, *words = argv
    clock = Clock(float(asked))
    from clf import verbs

    clock.end("imports")
    setattr(verbs, "CLI", _timed(clock))  # noqa: B010 - a class is no variable
    try:
        return verbs.run("fit", [*words, "--trainer.fast_dev_run", "1"])
    except UserError as error:
        print(f"clf: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _timed(clock: Clock) -> type[Any]:
    """Make a command line that tells a clock how far it is."""
    from lightning.pytorch import Trainer

    from clf import cli
    from clf.data.datamodule import ImageData

    class Timed(cli.CLI):
        def before_instantiate_classes(self) -> None:
            super().before_instantiate_classes()
            clock.end("configuration")
            for name in _LINKED:
                _time_property(ImageData, name, clock)

        def instantiate_trainer(self, **kwargs: Any) -> Trainer:
            clock.end("model")
            trainer = super().instantiate_trainer(**kwargs)
            callbacks: list[Any] = vars(trainer)["callbacks"]
            callbacks.insert(0, _watch(clock, compiled=bool(self.config.fit.model.compile)))
            return trainer

    return Timed


def _time_property(kind: type[Any], name: str, clock: Clock) -> None:
    read: Callable[[Any], Any] = getattr(kind, name).fget

    def timed(self: Any) -> Any:
        value = read(self)
        if "model" not in clock.phases:
            clock.end("data listing")
        return value

    setattr(kind, name, property(timed))


def _watch(clock: Clock, *, compiled: bool) -> Any:
    """Make a callback that notices the first step, and prints when it is over."""
    import torch
    from lightning.pytorch import Callback

    class Watch(Callback):
        def on_train_start(self, trainer: Any, *_: Any) -> None:
            clock.end("trainer and callbacks")

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            clock.end("first batch")

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
            clock.end("first step")
            workers = trainer.train_dataloader.settings.num_workers
            print(json.dumps({"phases": clock.phases, "num_workers": workers, "compile": compiled}), flush=True)

    return Watch()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
