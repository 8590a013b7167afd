"""What a run leaves for people: its configuration, circumstances and labels, and the link to the latest run."""

import json
from pathlib import Path
from typing import Any, cast

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from clf import results, runs
from clf.data.datamodule import ImageData
from clf.data.skipping import RECORD
from clf.environment import environment
from clf.exported import labels_mapping
from clf.files import replace_text
from clf.runs import Run


class RunFiles(Callback):
    """Writes ``config.yaml``, ``environment.json`` and ``labels_mapping.json`` once training starts.

    Loggers get the configuration, too.

    Args:
        run: Directory of the run.
        config: The resolved configuration as YAML text.
        facts: What else belongs into ``environment.json``.
    """

    def __init__(self, run: Run, *, config: str, facts: dict[str, Any]) -> None:
        self.run = run
        self.config = config
        self.facts = facts

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files and point ``runs/latest`` here; what an earlier command wrote is kept under a number.

        Not earlier: a resumed run that is refused must find its configuration as it was.
        """
        if not trainer.is_global_zero:
            return
        results.record(self.run.path / "metrics.json", {"finished": None})
        keep_and_write(self.run.config, self.config)
        facts = {**environment(), **self.facts}
        if (skipped := self._keep_list(trainer)) is not None:
            facts["data"] = {**facts["data"], "skipped": skipped}
        path = self.run.path / "environment.json"
        # What others have added, e.g. how fast the network is, is theirs to replace: it makes no other circumstances.
        added = {key: value for key, value in results.read(path).items() if key not in facts}
        keep_and_write(path, _json({**facts, **added}))
        classifier = cast(Any, pl_module)
        mapping = labels_mapping(classifier.classes, classifier.preprocessing)
        replace_text(self.run.path / "labels_mapping.json", _json(mapping))
        runs.publish(self.run)
        for logger in trainer.loggers:
            logger.log_hyperparams(yaml.safe_load(self.config))

    def _keep_list(self, trainer: Trainer) -> int | None:
        """Keep which bad files were left out, wherever the list is; say how many, or None if nobody looked for any."""
        data = getattr(trainer, "datamodule", None)
        skipping = data.catalogue.skipping if isinstance(data, ImageData) else None
        if skipping is None:
            return None
        keep_and_write(self.run.path / RECORD, skipping.text)
        return skipping.bad


def keep_and_write(path: Path, text: str) -> None:
    """Write a file; one that says something else moves to ``<stem>.<number><suffix>`` first."""
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        number = 1
        while (kept := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
            number += 1
        replace_text(kept, path.read_text(encoding="utf-8"))
    replace_text(path, text)


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
