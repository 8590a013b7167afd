"""The LightningModule: a network, its loss and its metrics, with one step for training and one for evaluation."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim import lr_scheduler as torch_schedulers

from clf.checkpoints import KEY, Facts
from clf.errors import UserError
from clf.losses import ClassWeights, CrossEntropy, class_weights
from clf.metrics import EvaluationMetrics, Stage, TrainingMetrics
from clf.networks import Built, Pretrained, build
from clf.optim import WarmupCosine, parameter_groups
from clf.preprocess import CropMode, Interpolation, Preprocessing
from clf.seeding import mix_seed

Batch = dict[str, Any]

OWN_NETWORK_CFG = {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bilinear"}
"""What a network of the user's own is fed with unless the configuration says otherwise."""
PER_STEP = (WarmupCosine, torch_schedulers.OneCycleLR, torch_schedulers.CyclicLR)
"""Schedules whose lengths count optimizer steps."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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
        loss: Module that maps logits (N, C) and labels (N,) to a scalar; default: smoothed cross-entropy.
        class_weights: ``inverse`` weighs the loss by inverse class frequency, normalised to sum to C.
        optimizer: Optimizer; biases and norms are not decayed.
        lr_scheduler: Learning-rate schedule, or null for a constant rate.
        lr_scheduler_interval: Step the schedule per optimizer ``step`` or per ``epoch``; ``auto`` is per step for
            WarmupCosine, OneCycleLR and CyclicLR and per epoch for all others.
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
        optimizer: OptimizerCallable = AdamW,
        lr_scheduler: LRSchedulerCallable | None = WarmupCosine,
        lr_scheduler_interval: Literal["auto", "step", "epoch"] = "auto",
        channels_last: bool = True,
        compile: bool = False,  # noqa: A002 - the field's word, and a YAML key
        seed: int = 42,
    ) -> None:
        super().__init__()
        if len(classes) < 2:
            raise UserError(f"a classifier needs at least two classes, found {classes!r}")
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        if network is None:
            built = build(
                arch,
                num_classes=len(classes),
                pretrained=pretrained,
                weights=weights,
                image_size=size,
                drop_rate=drop_rate,
                drop_path_rate=drop_path_rate,
            )
            self._built_from = {"arch": arch}
        else:
            if weights is not None or drop_rate or drop_path_rate:
                raise UserError(
                    "model.weights, drop_rate and drop_path_rate are for model.arch; give a network of your own such "
                    "things as model.network.init_args"
                )
            own = network(len(classes))
            built = Built(own, {**OWN_NETWORK_CFG, "mean": IMAGENET_MEAN, "std": IMAGENET_STD}, "its own constructor")
            self._built_from = {"class_path": f"{type(own).__module__}.{type(own).__qualname__}"}
        self.classes = classes
        self.weights_from = built.weights_from
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
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.lr_scheduler_interval = lr_scheduler_interval
        self.channels_last = channels_last
        self.seed = seed
        self._weigh_classes(class_weights, class_counts)
        self.training_metrics = TrainingMetrics()
        self.val_metrics = EvaluationMetrics(len(classes), "val")
        self.test_metrics = EvaluationMetrics(len(classes), "test")
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        if compile:
            # In place: the names in the checkpoint stay those of the plain network.
            self.network.compile()

    @property
    def facts(self) -> Facts:
        """What checkpoints say about this classifier."""
        return Facts(self.classes, self._built_from, asdict(self.preprocessing), self.weights_from)

    def _weigh_classes(self, scheme: ClassWeights, counts: list[int] | None) -> None:
        if scheme == "none":
            return
        if "class_weights" not in self.loss._buffers:
            name = type(self.loss).__name__
            raise UserError(f"model.class_weights={scheme!r}: {name} has no buffer named class_weights to put them in")
        # Without counts (evaluation) the values come with the checkpoint; only the shape matters here.
        self.loss.register_buffer("class_weights", class_weights(counts or [1] * len(self.classes), scheme))

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images, float (N, 3, H, W), to logits (N, C)."""
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(images)
        return logits

    def on_train_start(self) -> None:
        """Put the planned schedule in force, and hold a resumed optimizer to the configuration.

        It came back with the checkpoint's rates and decay; so did a schedule of torch's, which goes on with those.
        """
        scheduler = self.lr_schedulers()
        if not isinstance(scheduler, WarmupCosine | None):
            return
        configured = self.optimizer(parameter_groups(self)).param_groups
        for group, wanted in zip(self.trainer.optimizers[0].param_groups, configured, strict=True):
            group.update({key: value for key, value in wanted.items() if key != "params"})
        if scheduler is not None:
            scheduler.apply()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make what the step draws a function of (seed, epoch, batch, rank), so that a resumed run draws the same."""
        seed = mix_seed(self.seed, self.current_epoch, batch_idx, self.global_rank)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute the loss of a batch, scalar."""
        logits = self(batch["images"])  # (N, C)
        loss: Tensor = self.loss(logits, batch["labels"])
        self.training_metrics.update(loss.detach(), logits.detach(), batch["labels"])
        self.log("train/loss_step", loss.detach(), prog_bar=True, batch_size=len(logits))
        return loss

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
            metrics.update(self.loss(logits, batch["labels"]), logits, batch["labels"])
        return {"logits": logits, "labels": batch["labels"], "index": batch["index"]}

    def _logits(self, images: Tensor) -> Tensor:
        if not len(images):
            return images.new_zeros(0, len(self.classes), dtype=torch.float32)
        logits: Tensor = self(images).float()
        return logits

    def on_validation_epoch_start(self) -> None:
        """Start from nothing: an interrupted pass or the sanity check may have left batches."""
        self.val_metrics.reset()

    def on_validation_epoch_end(self) -> None:
        """Log the validation metrics."""
        self._log_evaluation(self.val_metrics)

    def on_test_epoch_start(self) -> None:
        """Start from nothing."""
        self.test_metrics.reset()

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_evaluation(self.test_metrics)

    def scored_images(self, stage: Stage) -> dict[str, int]:
        """Count the images of each class in the last evaluation of a stage."""
        metrics = {"val": self.val_metrics, "test": self.test_metrics}[stage]
        return dict(zip(self.classes, metrics.images_per_class, strict=True))

    def _log_evaluation(self, metrics: EvaluationMetrics) -> None:
        # All processes have computed the same; without the flag Lightning warns that they might not have.
        self.log_dict(metrics.compute(), sync_dist=True)

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Compute the logits (N, C) of a batch; N may be 0 where no image could be read."""
        known = {"labels": batch["labels"]} if "labels" in batch else {}
        return {"logits": self._logits(batch["images"]), "index": batch["index"], **known}

    def configure_optimizers(self) -> Any:
        """Build the optimizer over two parameter groups, and the schedule over the length of the run.

        A loss may have parameters, too.
        """
        try:
            optimizer = self.optimizer(parameter_groups(self))
            scheduler = None if self.lr_scheduler is None else self.lr_scheduler(optimizer)
        except UserError:
            raise
        except ValueError as error:  # what torch says about a rate or a length that cannot be
            raise UserError(f"model.optimizer or model.lr_scheduler: {error}") from error
        if scheduler is None:
            return optimizer
        interval = self.lr_scheduler_interval
        if interval == "auto":
            interval = "step" if isinstance(scheduler, PER_STEP) else "epoch"
        config: dict[str, Any] = {"scheduler": scheduler, "interval": interval}
        if isinstance(scheduler, torch_schedulers.ReduceLROnPlateau):
            if not isinstance(scheduler, ReduceLROnPlateau):
                raise UserError(
                    "model.lr_scheduler: torch's ReduceLROnPlateau does not say what it watches; "
                    "use lightning.pytorch.cli.ReduceLROnPlateau with init_args: {monitor: val/loss}"
                )
            config |= {"monitor": scheduler.monitor, "interval": "epoch"}
        if isinstance(scheduler, WarmupCosine):
            self._plan(scheduler, per_epoch=interval == "epoch")
        return {"optimizer": optimizer, "lr_scheduler": config}

    def _plan(self, scheduler: WarmupCosine, *, per_epoch: bool) -> None:
        total_steps = self.trainer.estimated_stepping_batches
        if total_steps == math.inf:
            raise UserError("WarmupCosine needs to know the run's length; set trainer.max_epochs or trainer.max_steps")
        self.trainer.fit_loop.setup_data()  # not done above where max_steps alone ends the run
        steps = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        if per_epoch:
            scheduler.plan(total_steps=math.ceil(total_steps / steps), steps_per_epoch=1)
        else:
            scheduler.plan(total_steps=int(total_steps), steps_per_epoch=steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds this classifier, and the metrics of the epoch so far, as primitives."""
        checkpoint[KEY] = self.facts.to_dict()
        checkpoint["training_metrics"] = self.training_metrics.totals()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on in mid-epoch, and settle who weighs the classes: in training the configuration, else the checkpoint."""
        name = "loss.class_weights"
        if self.trainer.state.fn == TrainerFn.FITTING:
            first = self.trainer.is_global_zero
            self.training_metrics.resume({k: first * total for k, total in checkpoint["training_metrics"].items()})
            own = {key: value for key, value in self.state_dict().items() if key == name}
            for key in {"state_dict", "current_model_state"} & checkpoint.keys():  # the second is a moving average's
                checkpoint[key] = {k: value for k, value in checkpoint[key].items() if k != name} | own
        elif "class_weights" in self.loss._buffers:
            self.loss.register_buffer("class_weights", checkpoint["state_dict"].get(name))
