"""The LightningModule: a network, its loss and its metrics, with one step for training and one for evaluation."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW

from clf.checkpoints import KEY, Facts
from clf.errors import UserError
from clf.losses import CORRECTIONS, ClassWeights, CrossEntropy, Loss, correct_imbalance
from clf.metrics import EvaluationMetrics, Mode, TrainingMetrics
from clf.networks import Pretrained, build, build_own
from clf.optim import Cosine, Interval, Warmup
from clf.parameters import Backbone
from clf.preprocess import CropMode, Interpolation, Preprocessing
from clf.rates import Rates
from clf.seeding import mix_seed

Batch = dict[str, Any]


class Classifier(LightningModule):
    """An image classifier around a timm network or one of your own.

    Args:
        classes: Class names; position is the index of the logit. Comes from the training data, or from the checkpoint.
        class_counts: Training images per class; comes from the training data.
        arch: timm's name of the network, e.g. ``resnet18``.
        network: A network of your own instead: a class whose first argument is the number of classes, mapping images
            (N, 3, H, W) to logits (N, C).
        pretrained: ``true`` needs ImageNet weights, ``false`` starts from random ones, ``auto`` takes what can be had.
        weights: Local weights file (safetensors) for ``arch`` instead; its head is left out.
        drop_rate: Dropout before the head, in [0, 1).
        drop_path_rate: Stochastic depth, in [0, 1).
        image_size: Input of the network in pixels, a number or (height, width); default: timm's for ``arch``.
        crop_mode: How evaluation gives an image the input's shape: ``center`` resizes the shorter side and crops,
            ``squash`` ignores the aspect ratio, ``border`` pads; default: timm's for ``arch``.
        crop_pct: Part of the resized image that the crop keeps, in (0, 1]; default: timm's for ``arch``.
        interpolation: Resampling filter; default: timm's for ``arch``.
        mean: Mean of the input per channel, in [0, 1]; default: timm's for ``arch``.
        std: Standard deviation of the input per channel; default: timm's for ``arch``.
        loss: Module that maps logits (N, C) and labels (N,), or their shares of the classes (N, C) where images are
            mixed, to a scalar; default: smoothed cross-entropy.
        class_weights: ``inverse`` weighs the loss by inverse class frequency, ``effective`` by the effective number of
            samples, which is milder; both normalised to sum to C.
        class_weights_beta: Of ``effective``, in [0, 1); the nearer to 1, the nearer to ``inverse``.
        resampled: Whether training draws classes more or less often than they occur; comes from the data.
        double_correction: Allow more than one of class weights, sampler and logit adjustment.
        mixing: Module that maps normalised images (N, 3, H, W) and shares of the classes (N, C) of a training batch to
            mixed ones, e.g. clf.mixing.Mixing.
        optimizer: Optimizer; biases and norms are not decayed.
        layer_decay: What the learning rate is multiplied with from layer to layer, from the head down; 1 is off.
        freeze_epochs: Epochs at the start in which only the head is trained.
        lr_scheduler: Learning-rate schedule, or null for a constant rate.
        lr_scheduler_interval: Step the schedule per optimizer ``step`` or per ``epoch``; ``auto`` is per step for
            Cosine, OneCycle, OneCycleLR and CyclicLR and per epoch for all others.
        warmup_epochs: Length of the linear warm-up that is laid over any schedule; at most a quarter of the run.
        warmup_start: Fraction of the rate at the first step of the warm-up.
        auroc: Also report the area under the ROC curve, one class against the rest, macro average.
        channels_last: Keep images as NHWC in memory: faster on CPUs and on GPUs with tensor cores.
        compile: Compile the network with ``torch.compile``; the first steps take longer.
        seed: Seed of dropout and other randomness inside a training step.
    """

    def __init__(
        self,
        classes: list[str],
        class_counts: list[int] | None = None,
        arch: str = "resnet18",
        network: Callable[[int], nn.Module] | None = None,
        pretrained: Pretrained = "auto",
        weights: str | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        image_size: int | tuple[int, int] | None = None,
        crop_mode: CropMode | None = None,
        crop_pct: float | None = None,
        interpolation: Interpolation | None = None,
        mean: tuple[float, float, float] | None = None,
        std: tuple[float, float, float] | None = None,
        loss: nn.Module | None = None,
        class_weights: ClassWeights = "none",
        class_weights_beta: float = 0.999,
        resampled: bool = False,
        double_correction: bool = False,
        mixing: nn.Module | None = None,
        optimizer: OptimizerCallable = AdamW,
        layer_decay: float = 1.0,
        freeze_epochs: int = 0,
        lr_scheduler: LRSchedulerCallable | None = Cosine,
        lr_scheduler_interval: Interval = "auto",
        warmup_epochs: float = 5.0,
        warmup_start: float = 1e-3,
        auroc: bool = False,
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002 - the field's word, and a YAML key
        seed: int = 42,
    ) -> None:
        super().__init__()
        if len(classes) < 2:
            raise UserError(f"a classifier needs at least two classes, found {classes!r}")
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        rates: dict[str, Any] = {"weights": weights, "drop_rate": drop_rate, "drop_path_rate": drop_path_rate}
        if network is None:
            built = build(arch, num_classes=len(classes), pretrained=pretrained, image_size=size, **rates)
            self._built_from = {"arch": arch}
        else:
            built = build_own(network, num_classes=len(classes), **rates)
            own = type(built.network)
            self._built_from = {"class_path": f"{own.__module__}.{own.__qualname__}"}
        self.classes = classes
        self.weights_from = built.weights_from
        self.temperature = 1.0  # set by whoever fits one; travels in checkpoints
        self.preprocessing = Preprocessing.from_pretrained_cfg(
            built.pretrained_cfg,
            image_size=size,
            crop_mode=crop_mode,
            crop_pct=crop_pct,
            interpolation=interpolation,
            mean=mean,
            std=std,
        )
        self.network = built.network
        self.loss = CrossEntropy() if loss is None else loss
        correct_imbalance(
            self.loss,
            scheme=class_weights,
            beta=class_weights_beta,
            # Without counts (evaluation) the values come with the checkpoint; only the shape matters here.
            counts=class_counts or [1] * len(classes),
            resampled=resampled,
            double_correction=double_correction,
        )
        self.mixing = mixing
        self.rates = Rates(
            optimizer,
            lr_scheduler,
            interval=lr_scheduler_interval,
            warmup=Warmup(warmup_epochs, warmup_start),
            layer_decay=layer_decay,
        )
        if freeze_epochs < 0:
            raise UserError(f"model.freeze_epochs={freeze_epochs} must not be negative")
        self.freeze_epochs = freeze_epochs
        self._backbone = Backbone(self.network) if freeze_epochs else None
        self.channels_last = channels_last
        self.seed = seed
        self.training_metrics = TrainingMetrics()
        self.val_metrics = EvaluationMetrics(len(classes), "val", auroc=auroc)
        self.test_metrics = EvaluationMetrics(len(classes), "test", auroc=auroc)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        if compile:
            # In place: the names in the checkpoint stay those of the plain network.
            self.network.compile()

    @property
    def facts(self) -> Facts:
        """What checkpoints say about this classifier."""
        preprocessing = asdict(self.preprocessing)
        return Facts(self.classes, self._built_from, preprocessing, self.weights_from, self.temperature)

    @property
    def metric_modes(self) -> dict[str, Mode]:
        """What a fit logs of this classifier, and which way each is better."""
        return {"train/loss_step": "min", **self.training_metrics.modes, **self.val_metrics.modes}

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images, float (N, 3, H, W), to logits (N, C)."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(images)
        return logits

    def on_train_start(self) -> None:
        """Put the rates of the first step in force, those of the configuration where a run is resumed."""
        self.rates.begin(step=self.trainer.global_step, epoch=self.current_epoch)
        self.on_train_epoch_start()  # Lightning does not call it where an epoch is resumed in its middle.

    def on_train_epoch_start(self) -> None:
        """Train the head alone, or everything: a function of the epoch, so that a resumed run does the same."""
        if self._backbone is not None:
            self._backbone.freeze(self.current_epoch < self.freeze_epochs)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make what the step draws a function of (seed, epoch, batch, rank), so that a resumed run draws the same."""
        seed = mix_seed(self.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss of a batch, scalar."""
        images, labels = batch["images"], batch["labels"]
        if self.mixing is not None:
            shares = functional.one_hot(labels, len(self.classes)).float()
            images, labels = self.mixing(images, shares)  # labels: (N,) -> (N, C)
        logits = self(images)  # (N, C)
        real = len(logits) - batch.get("fillers", 0)
        if real:
            logits, labels = logits[:real], labels[:real]
        loss: Tensor = self.loss(logits, labels)
        weight = self.loss.weigh(labels) if isinstance(self.loss, Loss) else None
        if real:
            self.training_metrics.update(loss.detach(), logits.detach(), labels, weight=weight)
        if self._is_logged(batch_idx):
            self.log("train/loss_step", loss.detach(), prog_bar=True, batch_size=len(logits))
        return loss * _share_of_step(loss.new_full((), len(labels)) if weight is None else weight, real)

    def _is_logged(self, batch_idx: int) -> bool:
        """Whether Lightning writes a row after this batch; the progress bar shows the first of an epoch, too.

        To log what is not written takes as long as all the other callbacks of a step.
        """
        trainer: Any = self._trainer  # none where a step is only measured
        if trainer is None:
            return False
        every = trainer.log_every_n_steps
        return batch_idx == 0 or bool(every and (trainer.global_step + 1) % every == 0)

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Step the schedule on rates of its own, without the warm-up."""
        with self.rates.without_warmup(step=self.trainer.global_step):
            super().lr_scheduler_step(scheduler, metric)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Put the rates of the next step in force."""
        self.rates.go_to(self.trainer.global_step)

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training metrics."""
        self.log_dict(self.training_metrics.compute(), sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Score a batch of the validation split."""
        return self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Score a batch of the test split."""
        return self._evaluate(batch, self.test_metrics)

    def _evaluate(self, batch: Batch, metrics: EvaluationMetrics) -> Batch:
        logits = self._logits(batch["images"])  # (N, C)
        if len(logits):  # of several processes, one may have less to score
            weight = self.loss.weigh(batch["labels"]) if isinstance(self.loss, Loss) else None
            metrics.update(self.loss(logits, batch["labels"]), logits, batch["labels"], weight=weight)
        return {"logits": logits, "labels": batch["labels"], "index": batch["index"]}

    def _logits(self, images: Tensor) -> Tensor:
        if not len(images):
            return images.new_zeros(0, len(self.classes), dtype=torch.float32)
        logits: Tensor = self(images).float()
        return logits

    def on_validation_epoch_start(self) -> None:
        """Start from nothing: an interrupted pass or the sanity check may have left batches."""
        self.val_metrics.reset()
        if self.trainer.world_size > 1:
            self._share_buffers()

    def _share_buffers(self) -> None:
        """Score with the first process's statistics of BatchNorm on all: they are what a checkpoint holds.

        Whether DDP has done so depends on whether gradients are accumulating, and on where a run was resumed.
        """
        for buffer in self.network.buffers():
            torch.distributed.broadcast(buffer, src=0)

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log_evaluation(self.val_metrics)

    def on_test_epoch_start(self) -> None:
        """Start from nothing."""
        self.test_metrics.reset()

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_evaluation(self.test_metrics)

    def _log_evaluation(self, metrics: EvaluationMetrics) -> None:
        # All processes have computed the same; without the flag Lightning warns that they might not have.
        values = {name: value.to(self.device) for name, value in metrics.compute().items()}
        self.log_dict(values, sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Compute the logits (N, C) of a batch; N may be 0 where no image could be read."""
        known = {"labels": batch["labels"]} if "labels" in batch else {}
        return {"logits": self._logits(batch["images"]), "index": batch["index"], **known}

    def configure_optimizers(self) -> Any:
        """Build the optimizer over its parameter groups, and schedule and warm-up over the length of the run."""
        if self._backbone is not None:
            self._backbone.freeze(False)  # a fit in this process may have ended frozen
        if self.freeze_epochs:
            self._require_strategy_that_thaws()
        total_steps = self.trainer.estimated_stepping_batches
        self.trainer.fit_loop.setup_data()  # not done above where max_steps alone ends the run
        steps_per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        return self.rates.configure(self, self.network, total_steps=total_steps, steps_per_epoch=steps_per_epoch)

    def _require_strategy_that_thaws(self) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
            raise UserError(
                "model.freeze_epochs with several processes: a frozen backbone has no gradients to exchange; "
                "set trainer.strategy=ddp_find_unused_parameters_true"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds this classifier, and the metrics of the epoch so far, as primitives."""
        checkpoint[KEY] = self.facts.to_dict()
        checkpoint["training_metrics"] = self.training_metrics.totals()
        checkpoint["rates"] = self.rates.describe()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on in mid-epoch, and settle who corrects imbalance: in training the configuration, else the checkpoint."""
        names = {f"loss.{name}" for name in CORRECTIONS}
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.rates.saved = checkpoint["rates"]
            place = {"process": self.trainer.global_rank, "processes": self.trainer.world_size}
            self.training_metrics.resume(checkpoint["training_metrics"], **place)
            own = {key: value for key, value in self.state_dict().items() if key in names}
            for key in {"state_dict", "current_model_state"} & checkpoint.keys():  # the second is a moving average's
                checkpoint[key] = {k: value for k, value in checkpoint[key].items() if k not in names} | own
            return
        for name in CORRECTIONS:
            if hasattr(self.loss, name):
                self.loss.register_buffer(name, checkpoint["state_dict"].get(f"loss.{name}"))


def _share_of_step(weight: Tensor, real: int) -> Tensor | float:
    """What a batch's mean counts, so that the mean over all processes is that of all their images.

    Args:
        weight: What the batch's mean was divided by, scalar.
        real: How many of its images are no fillers.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1.0
    mine = weight * (real > 0)
    total = mine.clone()
    torch.distributed.all_reduce(total)
    return mine * torch.distributed.get_world_size() / total
