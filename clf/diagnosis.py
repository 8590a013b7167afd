"""A command line of ``clf fit``, looked at from all sides: its data first, then what is built of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from clf.check.configuration import check_configuration
from clf.check.cost import measure_cost
from clf.check.duplicates import check_duplicates
from clf.check.files import check_files, too_many
from clf.check.findings import Finding, Subject
from clf.check.labels import check_labels
from clf.check.listing import list_splits
from clf.check.looks import Looks
from clf.check.report import Report
from clf.composed import Composed, composed
from clf.data.datamodule import ImageData
from clf.data.layout import SPLITS
from clf.data.samples import Samples, Split
from clf.data.scan import Bad, Files, scan
from clf.data.skipping import as_record
from clf.errors import UserError
from clf.files import replace_text
from clf.parser import Parser


class DataAlone(Composed):
    """Builds the data of a command line, and nothing that asks them for more than they have."""

    data: ImageData

    def instantiate_classes(self) -> None:
        """Build the data such that they list what is not there, too; the links to the model would refuse it."""
        options = self.options.clone()
        options.on_error = "skip"  # nothing is scanned before a rule is asked for
        parser = Parser()
        parser.add_lightning_class_args(ImageData, "data")
        self.data = parser.instantiate(parser.parse_object({"data": options.as_dict()})).data

    def _run_subcommand(self, subcommand: str) -> None:
        """Leave it at what was built."""


@dataclass
class Diagnosis:
    """Everything that is found, as far as it is asked for.

    Args:
        words: A command line of clf fit.
        subjects: What is looked for.
        few: Training images below which a class is rare.
        price_per_hour: What an hour of this machine costs.
        seconds: About how long training is measured for the cost.
        scratch: An empty folder.
    """

    words: Sequence[str]
    subjects: Sequence[Subject]
    few: int
    price_per_hour: float | None
    seconds: float
    scratch: Path

    def report(self) -> Report:
        """Look at everything.

        Raises:
            UserError: If the configuration cannot be read, or there is nothing where its data should be.
        """
        found, unlisted = self._listing
        sizes: dict[str, int] = {split: len(samples) for split, samples in found.items()}
        counts = " / ".join(f"{size:,} {split}" for split, size in sizes.items())
        report = Report(f"clf check: {self._data.catalogue.source}, {counts} images", self.subjects, sizes)
        report.findings += unlisted
        if "labels" in self.subjects:
            report.findings += self._labels(found)
        if found and {"files", "duplicates"} & set(self.subjects):
            report.findings += self._files(found)
        if {"configuration", "cost"} & set(self.subjects):
            self._configuration(report)
        return report

    @property
    def roots(self) -> Sequence[str]:
        """Folders that the paths of images count from."""
        return self._data.catalogue.roots

    @cached_property
    def _alone(self) -> DataAlone:
        with composed("fit", self.words, DataAlone) as made:
            assert isinstance(made, DataAlone)
            return made

    @property
    def _data(self) -> ImageData:
        return self._alone.data

    @property
    def _skips(self) -> bool:
        return bool(self._alone.options.on_error == "skip")

    @cached_property
    def _listing(self) -> tuple[dict[Split, Samples], list[Finding]]:
        return list_splits(self._data.catalogue)

    def _labels(self, found: Mapping[Split, Samples]) -> list[Finding]:
        rule = self._alone.options.on_unknown_label
        unlabelled = getattr(self._data.catalogue.source, "unlabelled", 0)
        return check_labels(found, few=self.few, on_unknown=rule, unlabelled=unlabelled)

    def _files(self, found: Mapping[Split, Samples]) -> list[Finding]:
        each = Files(found)
        looks = Looks(len(each.paths))
        bad = scan(each.paths, look=looks.add, title="reading all images")
        most = self._alone.options.max_bad_fraction
        findings = check_files(each.paths, bad, looks, skipped=self._skips)
        findings += too_many(len(bad), len(each.paths), most=most) if self._skips else []
        if "duplicates" in self.subjects:
            findings += check_duplicates(found, each, looks)
        self._remember(found, each, bad)
        return [finding for finding in findings if finding.subject in self.subjects]

    def _remember(self, found: Mapping[Split, Samples], each: Files, bad: Mapping[int, Bad]) -> None:
        """Spare a fit that skips bad files its own scan."""
        everything = {split: found.get(split, Samples()) for split in SPLITS}
        replace_text(self._record, as_record(everything, each, bad, roots=self.roots))

    @property
    def _record(self) -> Path:
        return self.scratch / "bad.txt"

    def _configuration(self, report: Report) -> None:
        """Build everything as fit would; what it refuses is an error, whatever was found before."""
        known = ["--data.bad_list", str(self._record)] if self._skips and self._record.is_file() else []
        is_sound = all(finding.severity != "error" for finding in report.findings)
        try:
            with composed("fit", [*self.words, *known]) as made:
                if "configuration" in self.subjects:
                    report.findings += check_configuration(
                        made.datamodule, made.model, trainer=made.configured, callbacks=made.watching
                    )
                if "cost" in self.subjects and is_sound:
                    self._cost(made, report)
        except UserError as error:
            is_sound = False
            report.findings.append(Finding("refused", "configuration", "error", f"clf fit stops: {error}"))
        if "cost" in self.subjects and not is_sound:
            text = "the cost was not measured: mend the errors first"
            report.findings.append(Finding("not-measured", "cost", "note", text))

    def _cost(self, made: Composed, report: Report) -> None:
        measured, found = measure_cost(
            made.trainer,
            made.model,
            made.datamodule,
            settings=made.configured,
            callbacks=made.watching,
            price_per_hour=self.price_per_hour,
            seconds=self.seconds,
            compiled=made.compiled,
        )
        report.findings += found
        if measured is not None:
            report.costs, report.cost = measured.rows(), measured.to_dict()
