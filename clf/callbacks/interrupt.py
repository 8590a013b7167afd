"""SIGTERM, Ctrl-C and SLURM's notice: finish the step, save, leave."""

import logging
import os
import signal
import subprocess
import threading
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, runtime_checkable

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

log = logging.getLogger("clf")

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What asks a process to end: the first politely from outside, the second as Ctrl-C."""


class Interrupted(BaseException):
    """Training was asked to end, and did; no error, hence no `Exception`.

    Args:
        signum: The signal that asked for it.
        checkpoint: Where training goes on from; None if there was nothing to save.

    Attributes:
        exit_code: What the shell expects of a process that a signal ended: 130 for Ctrl-C, 143 for all others.
    """

    def __init__(self, signum: int, checkpoint: Path | None = None) -> None:
        name = "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name
        super().__init__(f"stopped by {name}" + (f"; saved {checkpoint}" if checkpoint else ""))
        self.checkpoint = checkpoint
        self.exit_code = 130 if signum == signal.SIGINT else 143


@runtime_checkable
class Saver(Protocol):
    """The checkpoint callback, as far as an interruption needs it."""

    last_model_path: str

    def can_write_last(self, trainer: Trainer) -> bool:
        """Say whether nothing would be lost here."""

    def write_last(self, trainer: Trainer) -> Path | None:
        """Write the state from which training goes on."""


class Interrupt(Callback):
    """Ends a run in good order on SIGTERM or Ctrl-C, by raising `Interrupted`.

    In training the optimizer step is finished and ``last.ckpt`` written. In a validation the state from before it is
    written, and it runs again when training goes on. Other verbs, and the sanity check, end after the batch. A second
    signal ends the process at once.

    In a job of SLURM its requeue signal (SIGUSR1) does the same, and then the job is put into the queue again; started
    with ``--ckpt_path auto`` it goes on. `lightning.pytorch.plugins.environments.SLURMEnvironment` under
    ``trainer.plugins`` names another signal, or switches that off (``auto_requeue: false``).

    Several processes agree before they end: one that left alone would hang the others. Inside a validation they cannot
    (their shares may differ in length), so they finish it.

    Attributes:
        trained: Whether training has come to its end.
    """

    def __init__(self) -> None:
        self._signum: int | None = None
        self._saver: Saver | None = None
        self._requeue: int | None = None  # the signal by which SLURM gives notice
        self.trained = False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._signum, self._requeue, self.trained = None, None, False
        slurm = trainer._accelerator_connector.cluster_environment
        if isinstance(slurm, SLURMEnvironment) and slurm.auto_requeue and stage == "fit":
            # Lightning's own handler would save in the middle of anything, and a file that no later start looks for.
            slurm.auto_requeue, self._requeue = False, slurm.requeue_signal
        self._saver = next((one for one in trainer.checkpoint_callbacks if isinstance(one, Saver)), None)

    def _listen(self, trainer: Trainer) -> None:
        # Not in `setup`: Lightning would call us from its own handlers, which talk to other processes. When the verb
        # ends, it puts back what was there before both.
        if threading.current_thread() is threading.main_thread():
            for signum in (*SIGNALS, self._requeue):
                if signum is not None:
                    signal.signal(signum, self._note)
        if trainer.received_sigterm:  # before we listened
            self._signum = signal.SIGTERM
            trainer._signal_connector.received_sigterm = False

    def _note(self, signum: int, _: FrameType | None) -> None:
        # No more than a note: a handler runs in the middle of anything else, a collective or a write included.
        if self._signum is not None and self._signum == self._requeue:
            return  # after its notice SLURM may send SIGTERM, too, and there is time until it kills
        if self._signum is not None:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
            os._exit(128 + signum)  # the first program of a container, which the kernel spares
        self._signum = signum

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    @override
    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listen(trainer)

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save_and_leave(trainer)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._nothing_is_lost(trainer):
            self._save_and_leave(trainer)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self._listen(trainer)
        elif not trainer.sanity_checking and self._nothing_is_lost(trainer):
            self._save_and_leave(trainer)

    @override
    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            self._leave()
        elif trainer.world_size == 1 and self._nothing_is_lost(trainer):
            self._save_and_leave(trainer)

    @override
    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._leave()

    @override
    def on_predict_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._leave()

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.trained = True

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave late, when the signal came after the last batch: all is saved, and whatever follows is not wanted."""
        last = self._saver.last_model_path if self._saver and stage == "fit" else ""
        if self._signum is not None and self._signum == self._requeue and trainer.is_global_zero:
            requeue()
        self._leave(Path(last) if last else None)

    def _nothing_is_lost(self, trainer: Trainer) -> bool:
        return self._saver is None or self._saver.can_write_last(trainer)

    def _save_and_leave(self, trainer: Trainer) -> None:
        if trainer.strategy.reduce_boolean_decision(self._signum is not None, all=False):
            asked = self._signum is not None and self._signum == self._requeue
            self._signum = self._signum or signal.SIGTERM  # another process was asked
            checkpoint = self._saver.write_last(trainer) if self._saver else None
            if self._requeue and trainer.strategy.reduce_boolean_decision(asked, all=False) and trainer.is_global_zero:
                requeue()
            self._leave(checkpoint)

    def _leave(self, checkpoint: Path | None = None) -> None:
        if self._signum is not None:
            raise Interrupted(self._signum, checkpoint)


def requeue() -> None:
    """Put this job of SLURM into the queue again; a failure is said, and ends nothing."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        log.error("scontrol requeue %s failed: %s", job, reason)
    else:
        log.warning("SLURM job %s is in the queue again; with --ckpt_path auto it goes on", job)
