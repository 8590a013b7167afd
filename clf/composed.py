"""Data, model and trainer, composed as the Trainer's verbs compose them, for a command that makes no run."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer

from clf import finders, logs
from clf.allocator import keep_freed_memory
from clf.classifier import Classifier
from clf.cli import CLI
from clf.data.datamodule import ImageData
from clf.environment import available_precision, device_name
from clf.errors import UserError, first_line
from clf.invocation import understand
from clf.latest import with_configuration
from clf.parser import Parser
from clf.session import Session

log = logging.getLogger("clf")

_ONE_PROCESS: dict[str, Any] = {
    "devices": 1,
    "num_nodes": 1,
    "strategy": "auto",
    "fast_dev_run": False,
    "profiler": None,
}


class Composed(CLI):
    """Builds what a command line means, and does nothing with it.

    The network is neither compiled nor given pretrained weights: whoever measures compiles it, and weights decide
    nothing about speed.

    Args:
        session: What the command works in; it is not opened.

    Attributes:
        compiled: What ``model.compile`` says.
        configured: The trainer's settings as the configuration has them.
        settings: The same, with the precision that there is here.
    """

    compiled = False

    def before_instantiate_classes(self) -> None:
        """Take out what only a run needs."""
        super().before_instantiate_classes()
        config = self.config[self.verb]
        self.compiled, config.model.compile = bool(config.model.compile), False
        config.model.pretrained, config.model.weights = False, None

    def _settle_fit(self, config: Namespace) -> None:
        if self.search:
            raise UserError(f"{self.search} is for clf fit; leave it out")
        config.trainer.logger = False

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Let data and model meet, then build a trainer of one process that watches and writes nothing."""
        config = {**self._get(self.config_init, "trainer").as_dict(), **kwargs}
        asked = dict(config)
        self._check_checkpoint()
        self._require_batches(config)
        self.datamodule.bind(self.model.preprocessing, None if self.verb == "fit" else self.model.classes)
        config["precision"] = (
            available_precision(config["precision"], accelerator=str(config["accelerator"])) or "32-true"
        )
        self.configured, self.settings = asked, config
        if str(config["devices"]) not in ("auto", "1", "-1"):
            log.info("measured in one process of trainer.devices=%s", config["devices"])
        if self.on_cpu:
            keep_freed_memory()
        trainer = Trainer(**config | finders.SETTINGS | _ONE_PROCESS)
        self.datamodule.trainer = trainer  # which device, and which share of the batches, is the trainer's to say
        return trainer

    def fit(self, model: Classifier, datamodule: ImageData) -> None:
        """List the data, so that its errors come before anything is measured."""
        datamodule.setup("fit")

    def predict(self, model: Classifier, datamodule: ImageData) -> None:
        """Leave it at what was built."""

    @property
    def device(self) -> torch.device:
        """Where the trainer would train."""
        return self.trainer.strategy.root_device

    @property
    def on_cpu(self) -> bool:
        """Whether it would train without a GPU."""
        return self.device_name.startswith("cpu")

    @property
    def device_name(self) -> str:
        """Say the same in words."""
        return device_name(str(self.settings["accelerator"]))

    @property
    def watching(self) -> dict[str, Callback | None]:
        """The run's callbacks by name, which are not attached; None is switched off."""
        callbacks: dict[str, Callback | None] = self._get(self.config_init, "callbacks").as_dict()
        return callbacks

    @property
    def options(self) -> Namespace:
        """What the configuration says about the data."""
        options: Namespace = self.config[self.verb].data
        return options

    def data_with(self, **changes: Any) -> ImageData:
        """Build the data anew with other keys, e.g. a cache.

        Args:
            changes: The keys below ``data``.
        """
        config = self.config.clone()
        for key, value in changes.items():
            config[self.verb].data[key] = value
        assert isinstance(self.parser, Parser)
        data = self._get(self.parser.instantiate(config), "data")
        assert isinstance(data, ImageData)
        data.bind(self.model.preprocessing)
        data.trainer = self.trainer
        data.setup("fit")
        return data


@contextmanager
def composed(verb: str, words: Sequence[str], kind: type[Composed] = Composed) -> Iterator[Composed]:
    """Compose what a command line of ``clf fit`` or ``clf predict`` means.

    Args:
        verb: Which of the two.
        words: What follows it.
        kind: Builds it.
    Raises:
        UserError: For mistakes in usage, configuration or data, in the words of that verb.
    """
    with logs.logging_to_terminal(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"You are trying to `self.log\(\)` but")  # there is nobody who keeps a log
        invocation = understand(verb, with_configuration(words) if verb == "fit" else words)
        if verb == "fit" and invocation.checkpoint is not None:
            raise UserError("ckpt_path: nothing is trained here, and weights decide nothing; leave it out")
        try:
            yield kind(Session(invocation))
        except MisconfigurationException as error:
            raise UserError(first_line(error)) from error
