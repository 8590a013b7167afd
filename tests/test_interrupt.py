"""SIGTERM and Ctrl-C at any moment: the run ends at once and in good order, and goes on as if it never had."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from toy import Batches, Rows, Toy, differences, final_state, trainer

from clf.callbacks.checkpoint import Checkpoint
from clf.callbacks.ema import EMA
from clf.callbacks.interrupt import Interrupt, Interrupted

HOOKS = (
    *("on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_after_backward", "on_train_batch_end"),
    *("on_validation_start", "on_validation_batch_start", "on_validation_batch_end", "on_validation_epoch_end"),
    *("on_validation_end", "on_train_epoch_end", "on_train_end", "on_test_batch_start", "on_predict_batch_start"),
)


class Signal(Callback):
    """Sends this process a signal in the n-th call of a hook, and notes the hooks that follow.

    Args:
        hook: Name of the hook.
        call: Which call of it, from 0.
        signum: The signal.
    """

    def __init__(self, hook: str, call: int = 0, signum: int = signal.SIGTERM) -> None:
        assert hook in HOOKS
        self.hook, self.call, self.signum = hook, call, signum
        self.sent = False
        self.after: list[str] = []

    def note(self, hook: str) -> None:
        if self.sent:
            self.after.append(hook)
        elif hook == self.hook:
            if self.call == 0:
                self.sent = True
                os.kill(os.getpid(), self.signum)
            self.call -= 1


def _noting(hook: str) -> Any:
    def note(self: Signal, *_: Any) -> None:
        self.note(hook)

    return note


for _hook in HOOKS:
    setattr(Signal, _hook, _noting(_hook))


@pytest.fixture(autouse=True)
def handlers_are_as_before() -> Iterator[None]:
    before = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    yield
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == before


def schedule(toy: Toy, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    steps = int(toy.trainer.estimated_stepping_batches)
    return {"scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps), "interval": "step"}


def keep(folder: Path) -> Checkpoint:
    return Checkpoint(dirpath=str(folder), monitor="val/loss", mode="min", save_top_k=2, every_n_minutes=None)


def fit(
    folder: Path, *more: Callback, resume: bool = False, toy: Toy | None = None, **settings: Any
) -> tuple[Rows, Interrupted | None]:
    rows = Rows()
    stopping = EarlyStopping("val/loss", patience=2, mode="min")
    settings = {"max_epochs": 2, "logger": rows} | settings
    fitted = trainer(folder, *more, EMA(decay=0.9), stopping, Interrupt(), keep(folder), **settings)
    try:
        fitted.fit(toy or Toy(schedule), ckpt_path=str(folder / "last.ckpt") if resume else None)
    except Interrupted as interrupted:
        return rows, interrupted
    return rows, None


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Rows, dict[str, Any]]]:
    """Fits once for each kind of run; gives what was logged and the final state."""
    runs: dict[str, tuple[Rows, dict[str, Any]]] = {}

    def run(**settings: Any) -> tuple[Rows, dict[str, Any]]:
        if str(settings) not in runs:
            folder = tmp_path_factory.mktemp("whole")
            runs[str(settings)] = fit(folder, **settings)[0], final_state(folder)
        return runs[str(settings)]

    return run


def without_validation_total(state: dict[str, Any]) -> dict[str, Any]:
    # How many validation batches Lightning has counted in all: it estimates them when a run goes on, and never looks.
    fit_loop = dict(state["loops"]["fit_loop"])
    fit_loop["epoch_loop.val_loop.batch_progress"] = fit_loop["epoch_loop.val_loop.batch_progress"]["current"]
    return {**state, "loops": fit_loop}


@pytest.mark.parametrize(
    ("hook", "call", "settings"),
    [
        ("on_train_start", 0, {}),
        ("on_train_epoch_start", 0, {}),
        ("on_train_batch_start", 0, {}),
        ("on_after_backward", 2, {}),
        ("on_train_batch_end", 3, {}),
        ("on_after_backward", 4, {}),  # an epoch's last batch
        ("on_train_batch_end", 4, {}),
        ("on_validation_start", 0, {}),
        ("on_validation_batch_start", 0, {}),
        ("on_validation_batch_end", 1, {}),
        ("on_validation_epoch_end", 0, {}),
        ("on_validation_end", 0, {}),
        ("on_train_epoch_end", 0, {}),
        ("on_train_epoch_start", 1, {}),
        ("on_train_batch_start", 5, {}),
        ("on_validation_batch_start", 3, {}),
        ("on_train_batch_end", 0, {"accumulate_grad_batches": 2}),
        ("on_train_batch_end", 1, {"accumulate_grad_batches": 2}),
        ("on_after_backward", 4, {"accumulate_grad_batches": 2}),
        ("on_validation_batch_start", 0, {"accumulate_grad_batches": 2}),
        # Validation inside an accumulation window: nothing can be saved before the window closes.
        ("on_validation_start", 0, {"accumulate_grad_batches": 2, "val_check_interval": 1}),
        ("on_validation_batch_start", 0, {"accumulate_grad_batches": 2, "val_check_interval": 1}),
        ("on_validation_batch_start", 1, {"val_check_interval": 2}),
        ("on_validation_end", 1, {"val_check_interval": 2}),
        ("on_train_batch_end", 6, {"max_steps": 8, "max_epochs": -1}),
    ],
)
def test_an_interrupted_run_goes_on_as_if_it_never_had_been(
    tmp_path: Path, uninterrupted: Callable[..., Any], hook: str, call: int, settings: dict[str, Any]
) -> None:
    rows, whole = uninterrupted(**settings)
    before, error = fit(tmp_path, Signal(hook, call), **settings)
    assert error is not None
    assert (error.exit_code, error.checkpoint) == (143, tmp_path / "last.ckpt")
    after, _ = fit(tmp_path, resume=True, **settings)
    parts = final_state(tmp_path)
    assert differences(without_validation_total(whole), without_validation_total(parts)) == []
    assert before.rows + after.rows == rows.rows


@pytest.mark.parametrize(
    ("hook", "call", "after", "step"),
    [
        ("on_after_backward", 1, ["on_train_batch_end", "on_train_batch_start"], 2),
        ("on_train_batch_end", 1, ["on_train_batch_start"], 2),
        ("on_train_batch_end", 4, ["on_validation_start"], 5),
        ("on_validation_start", 0, [], 5),
        ("on_validation_batch_start", 0, ["on_validation_batch_end"], 5),
    ],
)
def test_the_step_is_finished_and_nothing_more_is_begun(
    tmp_path: Path, hook: str, call: int, after: list[str], step: int
) -> None:
    cut = Signal(hook, call)
    fit(tmp_path, cut)
    assert cut.after == after
    assert final_state(tmp_path)["global_step"] == step


def test_ctrl_c_ends_with_130_and_says_what_was_saved(tmp_path: Path) -> None:
    _, error = fit(tmp_path, Signal("on_train_batch_end", signum=signal.SIGINT))
    assert error is not None
    assert error.exit_code == 130
    assert str(error) == f"stopped by Ctrl-C; saved {tmp_path}/last.ckpt"


def test_a_signal_after_the_last_step_loses_nothing_and_still_ends_the_process(
    tmp_path: Path, uninterrupted: Callable[..., Any]
) -> None:
    _, error = fit(tmp_path, Signal("on_train_end"))
    assert error is not None
    assert error.checkpoint == tmp_path / "last.ckpt"
    assert differences(uninterrupted()[1], final_state(tmp_path)) == []


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job of SLURM with one task, as far as a program can tell; gives the file with what `scontrol` was asked."""
    values = {"JOB_ID": "7", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "JOB_NAME": "birds"}
    for name, value in values.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    asked, tools = tmp_path / "asked", tmp_path / "tools"
    tools.mkdir()
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    (tools / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return asked


@pytest.mark.parametrize("hook", ["on_after_backward", "on_validation_batch_start"])
def test_notice_by_slurm_saves_asks_for_another_turn_and_goes_on_exactly(
    tmp_path: Path, slurm: Path, uninterrupted: Callable[..., tuple[Rows, dict[str, Any]]], hook: str
) -> None:
    _, whole = uninterrupted()
    folder = tmp_path / "run"
    plugins = [SLURMEnvironment()]
    _, error = fit(folder, Signal(hook, 1, signal.SIGUSR1), plugins=plugins)
    assert error is not None
    assert (error.exit_code, error.checkpoint) == (143, folder / "last.ckpt")
    assert slurm.read_text() == "requeue 7\n"
    assert not list(folder.rglob("hpc_ckpt*"))
    fit(folder, resume=True, plugins=[SLURMEnvironment()])
    assert differences(without_validation_total(whole), without_validation_total(final_state(folder))) == []


def test_where_slurm_s_notice_is_switched_off_it_is_nobody_s(tmp_path: Path, slurm: Path) -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        _, error = fit(tmp_path, Signal("on_after_backward", 1, signal.SIGUSR1), plugins=[SLURMEnvironment(False)])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert error is None
    assert not slurm.exists()


class Impatient(Toy):
    """Is asked to end before training starts, while its data is set up."""

    def train_dataloader(self) -> Batches:
        os.kill(os.getpid(), signal.SIGTERM)
        return super().train_dataloader()


@pytest.mark.parametrize(("step", "accumulate", "then"), [(0, 1, 0), (2, 1, 2), (2, 3, 3)])
def test_a_signal_before_training_starts_is_not_forgotten(
    tmp_path: Path, step: int, accumulate: int, then: int
) -> None:
    """It reaches Lightning's own handler, after which the process would end with 0 and save nothing."""
    if step:
        fit(tmp_path, Signal("on_train_batch_end", step - 1))
    _, error = fit(tmp_path, toy=Impatient(), resume=step > 0, accumulate_grad_batches=accumulate)
    assert error is not None
    assert error.exit_code == 143
    assert final_state(tmp_path)["global_step"] == then


class Asked(Toy):
    """Is asked to end in the sanity check."""

    def validation_step(self, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_the_sanity_check_ends_at_once_and_has_nothing_to_save(tmp_path: Path) -> None:
    _, error = fit(tmp_path, toy=Asked(), num_sanity_val_steps=2)
    assert error is not None
    assert (error.exit_code, error.checkpoint) == (143, None)
    assert list(tmp_path.glob("*.ckpt")) == []


@pytest.mark.parametrize(
    ("verb", "hook"),
    [
        ("validate", "on_validation_batch_start"),
        ("test", "on_test_batch_start"),
        ("predict", "on_predict_batch_start"),
    ],
)
def test_other_verbs_end_after_the_batch(tmp_path: Path, verb: str, hook: str) -> None:
    cut = Signal(hook)
    with pytest.raises(Interrupted, match=r"^stopped by SIGTERM$") as error:
        getattr(trainer(tmp_path, cut, Interrupt(), keep(tmp_path)), verb)(Toy())
    assert error.value.exit_code == 143
    assert len(cut.after) <= 1
    assert list(tmp_path.glob("*.ckpt")) == []


def test_without_checkpoints_the_run_ends_all_the_same(tmp_path: Path) -> None:
    cut = Signal("on_train_batch_end")
    with pytest.raises(Interrupted, match=r"^stopped by SIGTERM$"):
        trainer(tmp_path, cut, Interrupt(), enable_checkpointing=False).fit(Toy())
    assert cut.after == ["on_train_batch_start"]


def test_an_error_gives_the_handlers_back(tmp_path: Path) -> None:
    interrupt = Interrupt()

    class Fail(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            assert signal.getsignal(signal.SIGTERM).__self__ is interrupt  # type: ignore[union-attr]
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        trainer(tmp_path, interrupt, Fail(), enable_checkpointing=False).fit(Toy())


def test_training_in_a_thread_works_without_handlers(tmp_path: Path) -> None:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(fit(tmp_path)))
    thread.start()
    thread.join()
    assert results[0][1] is None
    assert (tmp_path / "last.ckpt").exists()


PROGRAM = """
import sys
from pathlib import Path
from toy import Toy, trainer
from clf.callbacks.checkpoint import Checkpoint
from clf.callbacks.interrupt import Interrupt, Interrupted

class Waiting(Toy):
    def training_step(self, batch, batch_idx):
        print("training", flush=True)
        sys.stdin.readline()
        return super().training_step(batch, batch_idx)

folder = Path(sys.argv[1])
try:
    trainer(folder, Interrupt(), Checkpoint(dirpath=str(folder))).fit(Waiting())
except Interrupted as interrupted:
    print(interrupted.exit_code, interrupted.checkpoint.exists(), flush=True)
trainer(folder, Interrupt()).fit(Waiting())
"""


def test_a_process_told_once_saves_first_and_told_twice_ends_at_once(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "training\n"
        process.send_signal(signal.SIGTERM)
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "143 True\n"
        assert process.stdout.readline() == "training\n"
        # Two of one kind could reach the process as one.
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=20) in (-signal.SIGTERM, -signal.SIGINT)
        finally:
            process.kill()
