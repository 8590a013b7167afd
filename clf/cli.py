"""The Trainer's verbs on LightningCLI: which keys there are, what is linked, and what happens around each verb."""

import json
import logging
import sys
from argparse import SUPPRESS
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from clf import finders, logs, results, runs
from clf.allocator import keep_freed_memory
from clf.attaching import choose, place
from clf.callbacks.evaluating import Evaluating
from clf.callbacks.non_finite import NonFinite
from clf.callbacks.onnx_export import OnnxExport
from clf.callbacks.predictions import Predictions
from clf.callbacks.report import Report
from clf.callbacks.run_files import RunFiles
from clf.callbacks.tracked import Tracked
from clf.check import before_fit
from clf.checkpoints import read_step, require_fitting, restoring
from clf.classifier import Classifier
from clf.config import compose
from clf.data.datamodule import ImageData
from clf.endings import AlreadyDone
from clf.environment import available_precision, device_name
from clf.errors import UserError
from clf.garbage import settled
from clf.invocation import Invocation
from clf.loggers import Rows, RunLogger
from clf.metrics import Stage
from clf.parser import FOLLOWS, KEYS, PREDICT_KEYS, Parser, callback_keys
from clf.pictures import Pictures
from clf.predictions import refuse_overwriting
from clf.processes import watch_over
from clf.session import Session, changes, conclude_fit, fill_placeholders

log = logging.getLogger("clf")

_NOT_OPTIONS = {
    *("model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"),
    *("ckpt_path", "weights_only", "return_predictions", "verbose"),  # decided here
}


class Exporter(Trainer):
    """Tells LightningCLI of a verb that Lightning's Trainer lacks; `CLI.export` does its work."""

    def export(self, model: Classifier, datamodule: ImageData) -> None:
        """Write a checkpoint as an ONNX file that is proven equal, with its labels and a model card."""


class CLI(LightningCLI):
    """One command: parses, builds and runs.

    Args:
        session: What the command works in.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.invocation: Invocation = session.invocation
        self.verb = self.invocation.verb
        self.exit_code = 0
        self.search: str | None = None
        composed = self.invocation.composed
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)  # a class_path may name a file in the working folder
        super().__init__(
            Classifier,
            ImageData,
            trainer_class=Exporter,
            save_config_callback=None,
            seed_everything_default=42,
            parser_class=Parser,
            parser_kwargs={"prog": "clf", self.verb: {"dump_header": composed.describe_origins()}},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=[self.verb, "--config", composed.as_text(), *self.invocation.flags],
        )

    # ------------------------------------------------------------------ which keys there are

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Build the parser of the asked verb only: all of them take half a second."""
        return {self.verb: _NOT_OPTIONS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add our own keys and the links between rooms."""
        for name in ("name", "run", "ckpt_path"):
            parser.add_argument(f"--{name}", type=str | None, help=KEYS[name])
        levels = Literal["debug", "info", "warning", "error"]
        parser.add_argument("--log_level", type=levels, default="info", help=KEYS["log_level"])
        if self.verb == "fit":
            for name, text in {**finders.SEARCHES, **before_fit.SKIPPING}.items():
                parser.add_argument(f"--{name}", action="store_true", default=SUPPRESS, help=text)
        if self.verb == "predict":
            parser.add_argument("--output", type=str | None, help=PREDICT_KEYS["output"])
        if self.verb == "export":
            parser.add_class_arguments(OnnxExport, instantiate=False)
            given = self.invocation.composed.config["callbacks"].get("onnx_export") or {}
            parser.set_defaults(given.get("init_args", {}))
        for name, kind, text in callback_keys(self.invocation.composed.config["callbacks"]):
            parser.add_argument(f"--callbacks.{name}", type=kind | None, help=text)
        for name, source in FOLLOWS.items():
            if source == "seed_everything":
                parser.link_arguments(source, name, compute_fn=_number)
            elif self.verb == "fit":
                parser.link_arguments(source, name, apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Type the composed configuration and the flags."""
        assert isinstance(parser, Parser) and isinstance(args, list)
        verb_parser = self._parser(self.verb)
        for each in (parser, verb_parser):
            each.origin = self.invocation.composed.origin  # type: ignore[attr-defined]
            each.keys = [action.dest for action in verb_parser._actions]  # type: ignore[attr-defined]
        self.config = parser.parse_args(args)

    # ------------------------------------------------------------------ precedence

    def before_instantiate_classes(self) -> None:
        """Settle what the saved configuration says, then what only this command needs."""
        config = self.config[self.verb]
        logs.set_level(config.log_level)
        for key in ("ckpt_path", "run"):
            config.pop(key, None)
        if self.verb == "fit":
            config.name = self.invocation.name
            self.search, self.skips_check = self._settle_search(config), config.pop("skip_check", False)
            self._settle_fit(config)
        else:
            config.trainer.logger = False
            if self.verb == "export":
                config.trainer.accelerator, config.trainer.precision = "cpu", "32-true"
                self.exporter = OnnxExport(**{key: config.pop(key) for key in signature(OnnxExport).parameters})
            output = config.pop("output", None)
            refuse_overwriting(output, inputs=config.data.predict)
            if output is not None and config.callbacks.predictions is not None:
                config.callbacks.predictions.init_args.output = output
        config.data.bad_list = config.data.bad_list or self.session.bad_list
        if self.invocation.checkpoint is not None:
            # The weights come from the checkpoint; those it began with need not be had any more.
            config.model.pretrained, config.model.weights = False, None

    def _settle_search(self, config: Namespace) -> str | None:
        """Take out whether something is sought instead of trained: it belongs into no run's configuration."""
        asked = [name for name in finders.SEARCHES if config.pop(name, False)]
        for name in asked:
            if len(asked) > 1:
                raise UserError("find_lr and find_batch_size are two searches: first the batch size, then its rate")
            if self.invocation.checkpoint is not None:
                raise UserError(f"{name} starts from the configuration's weights: leave out --ckpt_path")
            if config.trainer.fast_dev_run:
                raise UserError(f"{name} finds nothing in a dry run: leave out --trainer.fast_dev_run")
        return asked[0] if asked else None

    def _settle_fit(self, config: Namespace) -> None:
        self.config_text = self._parser(self.verb).dump(config, skip_unset=False, skip_validation=True)
        plain = yaml.safe_load(self.config_text)
        parser = self._parser(self.verb)
        assert isinstance(parser, Parser)
        defaults = parser.resolve(compose([]).config)
        self.config_changes = changes(plain, {**defaults, "name": config.name})
        if self.session.processes.agreed("finished", lambda: self.session.is_finished(plain)):
            raise AlreadyDone(f"{self.session.run} is already finished; raise trainer.max_epochs to train it further")
        if config.trainer.fast_dev_run or self.search:
            config.trainer.logger = False
            self.session.run = None  # no trace, also not in the run that a dry run starts from
            return
        run = self.session.open()
        for key, saved, new in self.session.differences(plain) if self.session.resumes else []:
            log.info("config: %s is now %s (was %s)", key, json.dumps(new), json.dumps(saved))
        loggers = fill_placeholders(plain["trainer"]["logger"], run=run, run_id=self.session.run_id)
        filled = self._parser(self.verb).parse_object({"trainer": {"logger": loggers}}, config)
        config.trainer.logger = filled.trainer.logger

    # ------------------------------------------------------------------ building

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; as Lightning does it, by the parser's newer name for it."""
        self.config_init = self.parser.instantiate(self.config)
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._get(self.config_init, "model")
        self.trainer = self.instantiate_trainer()
        watch_over(self.trainer, self.session.processes)
        settled()

    def _require_batches(self, trainer: dict[str, Any]) -> None:
        """Refuse to train on nothing."""
        if trainer["limit_train_batches"] == 0:
            raise UserError("trainer.limit_train_batches=0 leaves nothing to train on; use clf validate to score only")

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Let data and model meet, then build the trainer around the run directory."""
        config = {**self._get(self.config_init, "trainer").as_dict(), **kwargs}
        config |= self.session.processes.counts(config)
        self._check_checkpoint()
        self.datamodule.bind(self.model.preprocessing, None if self.verb == "fit" else self.model.classes)
        self._require_batches(config)
        config["precision"] = available_precision(config["precision"], accelerator=str(config["accelerator"]))
        self._introduce(config)
        if device_name(str(config["accelerator"])).startswith("cpu"):
            keep_freed_memory()
        if self.verb == "export":
            return Exporter(accelerator="cpu", logger=False, enable_checkpointing=False)
        if self.search:
            return Trainer(**config | finders.SETTINGS | {"default_root_dir": str(self.session.scratch())})
        configured = self._get(self.config_init, "callbacks").as_dict()
        self._check(config, configured)
        run = None if config["fast_dev_run"] else self.session.run
        self.evaluating = Evaluating(run.path / "metrics.json" if run else None)
        self.pictures = Pictures(run.path / "plots" if run else None)
        self.callbacks = choose(configured, verb=self.verb, trainer=config)
        place(self.callbacks, run=run, predictions=self.session.output, pictures=self.pictures)
        own = (config["callbacks"] or []) if self.verb == "fit" else []  # the others' work is watching training
        callbacks = [self.evaluating, *self._run_files(), *own, *self.callbacks.values(), self.pictures]
        callbacks.sort(key=lambda callback: not isinstance(callback, NonFinite))  # before it is taken for a score
        return Trainer(
            **config
            | {
                "callbacks": callbacks,
                "logger": self._loggers(config["logger"]),
                "default_root_dir": str(self.session.run.path) if self.session.run else config["default_root_dir"],
                "enable_checkpointing": any(isinstance(callback, LightningCheckpoint) for callback in callbacks),
                "enable_progress_bar": any(isinstance(callback, ProgressBar) for callback in callbacks),
                "enable_model_summary": False,
                "use_distributed_sampler": False,  # our sampler deals to the processes itself
            }
        )

    def _check_checkpoint(self) -> None:
        facts, checkpoint = self.invocation.facts, self.invocation.checkpoint
        if facts is not None and checkpoint is not None:
            require_fitting(facts, self.model.facts, checkpoint=checkpoint)
            self.model.weights_from, self.model.temperature = facts.weights_from, facts.temperature

    def _check(self, trainer: dict[str, Any], callbacks: dict[str, Callback | None]) -> None:
        """Look at a fit for what would spoil it, in the first process, before anything is left behind."""
        if self.verb == "fit" and not self.skips_check and self.session.processes.first:
            resumes = self.session.resumes
            before_fit.look(self.datamodule, self.model, trainer=trainer, callbacks=callbacks, resumes=resumes)

    def _introduce(self, trainer: dict[str, Any]) -> None:
        """Say in the first line what is trained or used, on which data, from which weights, on which device."""
        where = self.invocation.checkpoint or self.session.run or self.search or "a dry run"
        data = "" if self.verb == "predict" else f" on {self.datamodule.source}"
        device = f"{device_name(str(trainer['accelerator']))}, {trainer['precision'] or '32-true'}"
        weights = "" if self.invocation.checkpoint else f", weights: {self.model.weights_from}"
        log.info("%s %s%s%s, %s", self.verb, where, data, weights, device)
        if self.verb != "predict":
            log.info("data: %s", self.datamodule.describe())
        self._compare_data()
        if self.session.resumes and self.session.run and self.session.is_other_data(self.datamodule.fingerprint()):
            log.warning("data: not the images and labels that %s was trained on until now", self.session.run)

    def _compare_data(self) -> None:
        """Refuse other data on another machine: images are dealt out by their number."""
        processes = self.session.processes
        if self.verb != "fit" or processes.line is None or processes.place.starter == "clf":
            return
        mine = self.datamodule.fingerprint()
        if processes.agreed("data", self.datamodule.fingerprint) != mine:
            raise UserError(f"data.root={self.datamodule.root}: not the images and labels of the first process")

    def _run_files(self) -> list[Callback]:
        if self.verb != "fit" or self.session.run is None:
            return []
        facts = {
            "run_id": self.session.run_id,
            "seed": self._get(self.config, "seed_everything"),
            "weights": self.model.weights_from,
            "config_changes": self.config_changes,
            "data": {"description": self.datamodule.describe(), "fingerprint": self.datamodule.fingerprint()},
        }
        path = self.session.run.path / "metrics.json"
        return [RunFiles(self.session.run, config=self.config_text, facts=facts), Tracked(path), Rows()]

    def _loggers(self, configured: Any) -> list[Logger]:
        if self.verb != "fit" or self.session.run is None:
            return []
        own = configured if isinstance(configured, list) else [configured]
        return [RunLogger(str(self.session.run.path)), *(logger for logger in own if isinstance(logger, Logger))]

    # ------------------------------------------------------------------ running

    def fit(self, model: Classifier, datamodule: ImageData) -> None:
        """Train, or continue training, or find what to train with."""
        if self.search:
            folder, images = runs.RUNS / self.invocation.name, len(datamodule.samples("train"))
            flag = finders.search(self.search, self.trainer, model, datamodule, images=images, folder=folder)
            log.info("next: clf fit … %s (instead of --%s)", flag, self.search)
            return
        try:
            self._work(self.trainer.fit)
        finally:
            self.session.trained = getattr(self.callbacks.get("interrupt"), "trained", False)
        if self.session.run is not None and self.trainer.is_global_zero:
            conclude_fit(self.session.run, self.trainer)
        self.pictures.require_room()
        self._report()
        self._export_best()  # last: what goes wrong there takes nothing else along
        self.session.complete()

    def _work(self, verb: Callable[..., Any], **options: Any) -> None:
        """Let the trainer restore the checkpoint, nothing but plain values, and do its work."""
        checkpoint = self.invocation.checkpoint
        with restoring(self.trainer, checkpoint):
            verb(self.model, datamodule=self.datamodule, ckpt_path=checkpoint, weights_only=True, **options)

    def _export_best(self) -> None:
        exporter, run = self.callbacks.get("onnx_export"), self.session.run
        if not isinstance(exporter, OnnxExport) or run is None or not self.trainer.is_global_zero:
            return
        if (checkpoint := run.checkpoints / runs.BEST).is_file():
            exporter.write(self.model, self.datamodule, checkpoint=checkpoint, run=run)
        else:
            log.warning("export: %s is not there, so nothing was exported", checkpoint)

    def export(self, model: Classifier, datamodule: ImageData) -> None:
        """Write a checkpoint as an ONNX file."""
        checkpoint = self.invocation.checkpoint
        assert checkpoint is not None, "only fit starts without one"
        self.exporter.write(model, datamodule, checkpoint=checkpoint, run=self.session.run)

    def validate(self, model: Classifier, datamodule: ImageData) -> None:
        """Score the validation split."""
        self._score("val", self.trainer.validate)

    def test(self, model: Classifier, datamodule: ImageData) -> None:
        """Score the test split."""
        self._score("test", self.trainer.test)

    def _score(self, split: Stage, verb: Callable[..., Any]) -> None:
        checkpoint = self.invocation.checkpoint
        assert checkpoint is not None, "only fit starts without one"
        self._work(verb, verbose=False)
        if (summary := self.evaluating.summary) is not None:
            log.info("%s: %s\n%s", split, results.describe(summary), results.table(summary))
            if (run := self.session.run) is not None:
                about = {"checkpoint": checkpoint.name, "data": self.datamodule.describe()}
                results.record_score(run.path / "metrics.json", split, {**about, **summary}, step=read_step(checkpoint))
                log.info("in %s: metrics.json, predictions/%s.csv", run, split)
        self._report()

    def _report(self) -> None:
        """Write the run's page, now that everything else is written."""
        writer = self.callbacks.get("report")
        if isinstance(writer, Report) and self.session.run is not None and self.trainer.is_global_zero:
            writer.write(self.session.run)

    def predict(self, model: Classifier, datamodule: ImageData) -> None:
        """Write predictions; images that could not be read make the exit code 1."""
        writer = self.callbacks.get("predictions")
        if not isinstance(writer, Predictions):
            raise UserError("callbacks.predictions=null: predict would write nothing; leave the callback on")
        self._work(self.trainer.predict, return_predictions=False)
        self.exit_code = writer.tally.tell(writer.output or f"{writer.dirpath}/predict.csv")


def _number(seed: bool | int) -> int:
    if isinstance(seed, bool):
        raise UserError(f"seed_everything={str(seed).lower()} must be a number: everything that is drawn depends on it")
    return seed
