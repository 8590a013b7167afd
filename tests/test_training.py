"""Steps of the classifier in real fits and evaluations: what they draw, keep, return and log."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import draw_folders
from lightning.pytorch import Callback, LightningModule, Trainer
from tiny import CLASSES, TRAIN, VAL, Loader, Net, batch, fit, logged, tiny
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW
from toy import differences, trainer

from clf.callbacks.checkpoint import Checkpoint
from clf.classifier import Batch, Classifier
from clf.data.datamodule import ImageData
from clf.losses import CrossEntropy
from clf.mixing import Mixing


def constant(groups: Any) -> SGD:
    """An optimizer that changes nothing."""
    return SGD(groups, lr=0.0)


def weights(classifier: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in classifier.state_dict().items()}


def mean_loss(classifier: Classifier, batch: Batch, **options: Any) -> float:
    with torch.no_grad():
        logits = classifier.eval()(batch["images"])
    return F.cross_entropy(logits, batch["labels"], **options).item()


class Layouts(nn.Module):
    """Keeps how images and kernels lie in memory."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.seen: set[tuple[bool, bool]] = set()
        next(iter(classifier.network.children())).register_forward_pre_hook(self.look)

    def look(self, convolution: nn.Module, inputs: tuple[Tensor]) -> None:
        kernel = next(convolution.parameters())
        nhwc = [tensor.is_contiguous(memory_format=torch.channels_last) for tensor in (inputs[0], kernel)]
        self.seen.add((nhwc[0], nhwc[1]))


@pytest.mark.parametrize("channels_last", [True, False])
def test_channels_last_reaches_the_convolution_and_changes_no_logit(channels_last: bool, tmp_path: Path) -> None:
    classifier = tiny(channels_last=channels_last)
    layouts = Layouts(classifier)
    fit(tmp_path, classifier, max_epochs=1)
    assert layouts.seen == {(channels_last, channels_last)}
    other = tiny(channels_last=not channels_last)
    other.load_state_dict(classifier.state_dict())
    images = VAL[0]["images"]
    torch.testing.assert_close(classifier.eval()(images), other.eval()(images))


class Flat(nn.Sequential):
    """Compiles quickly: needs no compiler for C++."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(192, num_classes))


def test_a_compiled_network_trains_and_keeps_its_plain_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters
    from torch._inductor import config

    monkeypatch.setattr(config, "compile_threads", 1)  # a pool of processes would outlive the test
    compiled, plain = tiny(network=Flat, compile=True), tiny(network=Flat)
    counters.clear()
    for classifier in (plain, compiled):
        assert not counters["stats"]["unique_graphs"]
        fit(tmp_path, classifier, Checkpoint(dirpath=str(tmp_path)), max_epochs=1)
    assert counters["stats"]["unique_graphs"] > 0
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert saved.keys() == {"network.1.weight", "network.1.bias"}
    torch.testing.assert_close(saved, weights(plain))


def test_one_batch_is_learned_by_heart(tmp_path: Path) -> None:
    images = batch(0, 1, 2, 0, 1, 2)
    classifier = tiny(loss=CrossEntropy(0.0), lr_scheduler=None, optimizer=lambda groups: AdamW(groups, lr=0.03))
    fit(tmp_path, classifier, batches=[images] * 100, max_epochs=1)
    assert mean_loss(classifier, images) < 0.01


def trained(tmp_path: Path, *, disturb: int, **settings: Any) -> dict[str, Tensor]:
    classifier = tiny(network=lambda classes: Net(classes, dropout=0.5), **settings)
    torch.manual_seed(disturb)  # what came before the fit must not matter
    fit(tmp_path, classifier, max_epochs=2)
    return weights(classifier)


def test_equal_seeds_train_equal_weights_and_others_do_not(tmp_path: Path) -> None:
    one = trained(tmp_path, disturb=1)
    assert differences(one, trained(tmp_path, disturb=2)) == []
    assert differences(one, trained(tmp_path, disturb=1, seed=43)) != []


def drawn(tmp_path: Path, *, disturb: int, seed: int) -> list[Tensor]:
    """Collect what dropout lets through in two epochs of twice the same batch, with weights that stay as they are."""
    classifier = tiny(network=lambda classes: Net(classes, dropout=0.5), optimizer=constant, seed=seed)
    passed: list[Tensor] = []
    dropout = next(module for module in classifier.modules() if isinstance(module, nn.Dropout))
    dropout.register_forward_hook(lambda module, _, output: passed.append(output.detach()) if module.training else None)
    torch.manual_seed(disturb)
    fit(tmp_path, classifier, batches=[TRAIN[0], TRAIN[0]], max_epochs=2)
    return passed


def test_dropout_is_a_function_of_seed_epoch_and_batch(tmp_path: Path) -> None:
    first = drawn(tmp_path, disturb=1, seed=7)
    assert differences(first, drawn(tmp_path, disturb=2, seed=7)) == []
    different = [*first, *drawn(tmp_path, disturb=1, seed=8)]
    assert len({tuple(tensor.flatten().tolist()) for tensor in different}) == 8


class Outputs(Callback):
    """Keeps what evaluation steps return."""

    def __init__(self) -> None:
        self.seen: list[Batch] = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.seen.append(outputs)

    on_test_batch_end = on_validation_batch_end


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_evaluation_returns_float32_logits_with_labels_and_index(verb: str, precision: str, tmp_path: Path) -> None:
    classifier, outputs = tiny(), Outputs()
    evaluator = trainer(tmp_path, outputs, precision=precision)
    returned = getattr(evaluator, verb)(classifier, Loader(VAL))
    classifier.eval()
    steps = returned if verb == "predict" else outputs.seen
    for step, given in zip(steps, VAL, strict=True):
        assert step.keys() == {"logits", "labels", "index"}
        assert step["logits"].dtype == torch.float32
        assert not step["logits"].requires_grad
        torch.testing.assert_close(step["logits"], classifier(given["images"]), rtol=0.02, atol=0.02)
        assert (step["labels"].tolist(), step["index"].tolist()) == (given["labels"].tolist(), given["index"].tolist())


class Reshaping(nn.Module):
    """A network that cannot take a batch of nothing."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(192, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images.reshape(len(images), -1))
        return logits


def test_prediction_needs_no_labels_and_survives_a_batch_without_images(tmp_path: Path) -> None:
    unlabelled = {name: value for name, value in batch(0, 1).items() if name != "labels"}
    empty = {name: value[:0] for name, value in unlabelled.items()}
    steps: Any = trainer(tmp_path).predict(tiny(network=Reshaping), Loader([unlabelled, empty]))
    assert [step.keys() for step in steps] == [{"logits", "index"}] * 2
    assert [(step["logits"].shape, step["logits"].dtype) for step in steps] == [((n, 3), torch.float32) for n in (2, 0)]


def test_a_process_that_has_no_image_left_to_score_changes_no_number(tmp_path: Path) -> None:
    empty = {name: value[:0] for name, value in VAL[0].items()}
    for verb in ("validate", "test"):
        [expected] = getattr(trainer(tmp_path), verb)(tiny(network=Reshaping), Loader(VAL), verbose=False)
        [found] = getattr(trainer(tmp_path), verb)(tiny(network=Reshaping), Loader([*VAL, empty]), verbose=False)
        assert found == expected


def test_a_fit_logs_these_metrics_of_all_images(tmp_path: Path) -> None:
    classifier = tiny(optimizer=constant)
    found = logged(fit(tmp_path, classifier, max_epochs=1))
    names = ["loss", "acc_top1", "acc_top5", "f1_macro", "precision_macro", "recall_macro", "ece"]
    names += [f"acc_class_{index}" for index in range(3)]
    assert found.keys() == {"train/loss", "train/acc_top1", "train/loss_step", *(f"val/{name}" for name in names)}
    images = {name: torch.cat([batch[name] for batch in VAL]) for name in ("images", "labels")}
    assert found["val/loss"] == pytest.approx(mean_loss(classifier, images, label_smoothing=0.1))


def test_a_test_logs_the_same_under_its_own_name(tmp_path: Path) -> None:
    [val] = trainer(tmp_path).validate(tiny(), Loader(VAL), verbose=False)
    [test] = trainer(tmp_path).test(tiny(), Loader(VAL), verbose=False)
    assert {name.replace("val/", "test/"): value for name, value in val.items()} == test


class Broken(Callback):
    """Ends a pass after its first batch."""

    def on_validation_batch_end(self, *_: Any) -> None:
        raise SystemExit(9)

    def on_test_batch_end(self, *_: Any) -> None:
        raise SystemExit(9)


def test_a_pass_that_was_broken_off_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    classifier = tiny()
    for verb in ("validate", "test"):
        [expected] = getattr(trainer(tmp_path), verb)(classifier, Loader(VAL), verbose=False)
        with pytest.raises(SystemExit):
            getattr(trainer(tmp_path, Broken()), verb)(classifier, Loader([batch(2, 2, 2), *VAL]))
        [found] = getattr(trainer(tmp_path), verb)(classifier, Loader(VAL), verbose=False)
        assert found == expected


class Stop(Callback):
    """Ends a run in its second epoch, after so many of its batches."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (1, self.after):
            raise SystemExit(9)


def test_an_epoch_that_was_cut_in_two_is_reported_whole(tmp_path: Path) -> None:
    root = draw_folders(tmp_path / "data", {f"{split}/{name}": 4 for split in ("train", "val") for name in CLASSES})
    found: list[tuple[dict[str, float], dict[str, Tensor]]] = []
    for stop, resume in ((99, None), (2, None), (99, "last.ckpt")):
        folder = tmp_path / ("whole" if not found else "cut")
        data = ImageData(root=str(root), augment="light", batch_size=4, num_workers=0)
        classifier = tiny(network=lambda classes: Net(classes, dropout=0.5), mixing=Mixing(probability=0.8))
        data.bind(classifier.preprocessing)
        # First the checkpoint: the batch at which the run ends is not trained any more.
        callbacks = [Checkpoint(dirpath=str(folder), every_n_train_steps=1), Stop(stop)]
        fitted = trainer(folder, *callbacks, max_epochs=2)
        try:
            fitted.fit(classifier, data, ckpt_path=resume and folder / resume, weights_only=True)
        except SystemExit:
            continue
        found.append((logged(fitted), weights(classifier)))
    whole, resumed = found
    assert resumed[0] == whole[0]
    assert differences(whole[1], resumed[1]) == []
