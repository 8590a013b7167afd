"""What is seen of a run: a bar in a terminal that leaves nothing behind, and plain lines in the log."""

import io
import logging
import re
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import rich.progress
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from clf.callbacks import progress, timing
from clf.callbacks.progress import Progress
from clf.callbacks.timing import Timing

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")  # ten zeros need none


class Clock:
    """A clock that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """Standard output as a terminal: what was written, and what is on the screen."""

    def isatty(self) -> bool:
        return True

    @property
    def plain(self) -> str:
        return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", self.getvalue())

    @property
    def screen(self) -> str:
        lines, row = [""], 0
        for part in re.findall(r"\x1b\[[?0-9;]*[a-zA-Z]|[\r\n]|[^\x1b\r\n]+", self.getvalue()):
            if part == "\n":
                row += 1
                lines += [""] * (row == len(lines))
            elif part == "\x1b[1A":
                row -= 1
            elif part == "\x1b[2K":
                lines[row] = ""
            elif not part.startswith("\x1b") and part != "\r":
                lines[row] += part
        return "\n".join(lines).strip()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    screen = Terminal()
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    return screen


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    standing = Clock()
    monkeypatch.setattr(progress, "perf_counter", standing)
    return standing


class Toy(LightningModule):
    """Every training step takes 10 s on the clock; the metrics are functions of the epoch."""

    def __init__(self, clock: Clock | None = None, *, fails: bool = False) -> None:
        super().__init__()
        self.clock = clock or Clock()
        self.fails = fails
        self.weight = nn.Parameter(torch.ones(()))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.clock.now += 10
        if self.fails and batch_idx == 1:
            raise OSError("the disk went away")
        self.log("train/loss_step", self.current_epoch + 0.25, prog_bar=True)
        return self.weight * 0

    def on_train_epoch_end(self) -> None:
        self.log("train/loss", self.current_epoch + 0.5)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.clock.now += 10

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/acc_class_{i}": 0.125 for i in range(50)}, prog_bar=True)
        self.log_dict({"val/loss": 0.75, "val/acc_top1": self.current_epoch / 10, "val/f1_macro": 0.625})

    test_step = validation_step

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.clock.now += 10
        return batch["images"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Watched(Progress):
    """Keeps what it showed."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[dict[str, Any]] = []

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        self.shown.append(super().get_metrics(trainer, pl_module))
        return self.shown[-1]


def loader(sizes: Sequence[int] = (4, 4, 2)) -> DataLoader[Any]:
    batches = [{"images": torch.zeros(n, 3, 1, 1)} for n in sizes]
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def trainer(*callbacks: Any, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "callbacks": list(callbacks),
        "logger": False,
        "max_epochs": 3,
        "accelerator": "cpu",
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    return Trainer(**(defaults | options))


def run(verb: str, clock: Clock | None = None) -> None:
    loaders = [loader(), loader()] if verb == "fit" else [loader()]
    quietly = {"verbose": False} if verb in {"validate", "test"} else {}
    getattr(trainer(Progress()), verb)(Toy(clock), *loaders, **quietly)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "clf"]


def test_the_bar_shows_epoch_images_per_second_and_few_metrics(terminal: Terminal, clock: Clock) -> None:
    with redirect_stdout(terminal):
        trainer(Progress()).fit(Toy(clock), loader(), loader())
    last = r"Epoch 2/2 .* 3/3 .* \d+ images/s loss: 2.250 val/loss: 0.750 val/acc_top1: 0.200 *\n"
    assert re.search(last, terminal.plain)
    assert "acc_class" not in terminal.plain
    assert "it/s" not in terminal.plain


def test_the_bar_shows_the_score_that_checkpoints_are_chosen_by(
    terminal: Terminal, clock: Clock, tmp_path: Path
) -> None:
    checkpoint = ModelCheckpoint(tmp_path, monitor="val/f1_macro", mode="max")
    with redirect_stdout(terminal):
        trainer(Progress(), checkpoint, enable_checkpointing=True).fit(Toy(clock), loader(), loader())
    assert "val/f1_macro: 0.625" in terminal.plain


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_the_bar_leaves_the_screen_empty(terminal: Terminal, verb: str) -> None:
    with redirect_stdout(terminal):
        run(verb)
    assert "images/s" in terminal.plain
    assert terminal.screen == ""


def test_the_bar_can_be_left_on_the_screen(terminal: Terminal) -> None:
    with redirect_stdout(terminal):
        trainer(Progress(leave=True)).predict(Toy(), loader(), return_predictions=False)
    assert re.search(r"Predicting .* 3/3 .* images/s", terminal.screen)


def test_a_failure_clears_the_screen_for_its_message(terminal: Terminal) -> None:
    with redirect_stdout(terminal), pytest.raises(OSError, match="the disk went away"):
        trainer(Progress()).fit(Toy(fails=True), loader(), loader())
    assert terminal.screen == ""


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_without_a_terminal_there_is_no_bar_even_where_colour_is_forced(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    monkeypatch.setenv("FORCE_COLOR", "1")
    with redirect_stdout(file):
        run(verb)
    assert file.getvalue() == ""


def test_a_terminal_that_cannot_move_its_cursor_gets_no_bar(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with redirect_stdout(terminal):
        trainer(Progress()).fit(Toy(), loader(), loader())
    assert terminal.getvalue() == ""


def test_a_refresh_rate_of_zero_is_no_bar(terminal: Terminal) -> None:
    with redirect_stdout(terminal):
        trainer(Progress(refresh_rate=0)).fit(Toy(), loader(), loader())
    assert terminal.getvalue() == ""


def test_each_epoch_is_one_line_with_its_own_metrics_and_the_time_left(
    caplog: pytest.LogCaptureFixture, clock: Clock
) -> None:
    with caplog.at_level(logging.INFO, "clf"):
        trainer(Progress()).fit(Toy(clock), loader(), loader())
    # Three batches of training and three of validation, 10 s each; the sanity check does not count.
    assert lines(caplog) == [
        "epoch 0/2: train/loss 0.5000, val/loss 0.7500, val/acc_top1 0.0000, 0:02:00 left",
        "epoch 1/2: train/loss 1.5000, val/loss 0.7500, val/acc_top1 0.1000, 0:01:00 left",
        "epoch 2/2: train/loss 2.5000, val/loss 0.7500, val/acc_top1 0.2000",
    ]


def test_the_line_has_the_throughput_that_timing_measured(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "clf"):
        trainer(Timing(), Progress(), max_epochs=1).fit(Toy(), loader(), loader())
    assert re.fullmatch(
        r"epoch 0/0: train/loss 0.5000, val/loss 0.7500, val/acc_top1 0.0000, \d+ images/s, \d+ % waiting for data",
        lines(caplog)[0],
    )


class SlowImages(Dataset[dict[str, Tensor]]):
    """Three batches; each takes 30 s on the clock to come."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.clock.now += 30
        return {"images": torch.zeros(4, 3, 1, 1)}


def test_waiting_for_data_is_shown_while_training_and_in_the_epoch_s_line(
    terminal: Terminal, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "perf_counter", clock)
    bar = Progress()
    slow: DataLoader[Any] = DataLoader(SlowImages(clock), batch_size=None)
    with redirect_stdout(terminal), caplog.at_level(logging.INFO, "clf"):
        trainer(Timing(), bar, max_epochs=1).fit(Toy(clock), slow, loader())
    assert re.search(r"Epoch 0/0 .* 3/3 .* \d+ images/s, 75 % waiting for data loss: ", terminal.plain)
    assert bar.share_of_waiting(bar.train_progress_bar_id) == 0.75
    assert bar.share_of_waiting(bar.val_progress_bar_id) is None
    assert "75 % waiting for data" in lines(caplog)[0]


def test_a_run_without_a_last_epoch_says_no_time_left(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    with caplog.at_level(logging.INFO, "clf"):
        trainer(Progress(), max_epochs=-1, max_steps=6).fit(Toy(clock), loader(), loader())
    assert lines(caplog) == [
        "epoch 0: train/loss 0.5000, val/loss 0.7500, val/acc_top1 0.0000",
        "epoch 1: train/loss 1.5000, val/loss 0.7500, val/acc_top1 0.1000",
    ]


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_an_evaluation_is_one_line(caplog: pytest.LogCaptureFixture, clock: Clock, verb: str) -> None:
    with caplog.at_level(logging.INFO, "clf"):
        run(verb, clock)
    assert lines(caplog) == [f"{verb}: 10 images in 0:00:30, 0 images/s"]


def test_unreadable_files_count_as_images_that_were_worked_on(caplog: pytest.LogCaptureFixture, clock: Clock) -> None:
    batch = {"images": torch.zeros(20, 3, 1, 1), "errors": [(20, "truncated")] * 10}
    with caplog.at_level(logging.INFO, "clf"):
        trainer(Progress()).predict(Toy(clock), DataLoader([batch], batch_size=None))  # type: ignore[arg-type]
    assert lines(caplog) == ["predict: 30 images in 0:00:10, 3 images/s"]


def test_other_processes_say_nothing(
    terminal: Terminal, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "is_global_zero", False)
    with redirect_stdout(terminal), caplog.at_level(logging.INFO, "clf"):
        trainer(Progress()).fit(Toy(), loader(), loader())
        trainer(Progress()).predict(Toy(), loader())
    assert (terminal.getvalue(), lines(caplog)) == ("", [])


def test_the_running_loss_is_read_twice_a_second_at_most(terminal: Terminal, clock: Clock) -> None:
    class Slow(Toy):
        def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
            self.clock.now += 0.1
            self.log("train/loss_step", float(batch_idx), prog_bar=True)
            return self.weight * 0

    bar = Watched()
    with redirect_stdout(terminal):
        trainer(bar, max_epochs=1).fit(Slow(clock), loader([1] * 20), loader())
    losses = [metrics.get("loss") for metrics in bar.shown]
    assert len(losses) >= 20
    assert 4 <= len(set(losses)) <= 6  # in the two seconds that twenty steps took


def test_the_sanity_check_s_scores_are_never_shown(terminal: Terminal, clock: Clock) -> None:
    bar = Watched()
    with redirect_stdout(terminal):
        trainer(bar, max_epochs=1).fit(Toy(clock), loader(), loader())
    assert [metrics.get("val/loss") for metrics in bar.shown[:3]] == [None] * 3
    assert bar.shown[-1]["val/loss"] == 0.75


def test_images_of_all_processes_count(
    caplog: pytest.LogCaptureFixture, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "world_size", 2)
    with caplog.at_level(logging.INFO, "clf"):
        run("predict", clock)
    assert lines(caplog) == ["predict: 20 images in 0:00:30, 1 images/s"]


def test_images_per_second_are_batches_per_second_times_images_per_batch() -> None:
    clock = Clock()
    bar = Progress()
    bar.batch_images = 32
    shown = rich.progress.Progress(progress._ImagesPerSecond(bar), get_time=clock)
    task = shown.add_task("", total=10)
    for _ in range(5):
        clock.now += 0.5
        shown.advance(task)
    assert str(shown.columns[0](shown.tasks[0])) == "64 images/s"  # type: ignore[operator]
