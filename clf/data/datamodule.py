"""The data of a run: finds out what is there, holds it to the rules, and hands out batches."""

import logging
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from lightning.pytorch.trainer.states import TrainerFn

from clf.data.cache import Wanted, Where, keep
from clf.data.cachefile import Cache
from clf.data.catalogue import STAGE_SPLITS, Catalogue
from clf.data.drawing import Drawing
from clf.data.exclusion import Exclusion
from clf.data.inputs import find_inputs
from clf.data.loading import (
    Images,
    Loader,
    LoaderSettings,
    Pixels,
    eval_tensor,
    fit_to_machine,
    train_tensor,
)
from clf.data.ranges import require_in_range
from clf.data.roots import Layout, open_data, require_one
from clf.data.samplers import Sampler, choose_sampler
from clf.data.samples import Lister, Samples, Source, Split
from clf.data.sampling import Key, count_eval_batches, count_train_batches, eval_batches, train_batches
from clf.data.skipping import Skipping
from clf.data.tables import RowKeys
from clf.data.train_only import TrainOnly, Value
from clf.data.transfer import BatchTransfer
from clf.errors import UserError, counted
from clf.preprocess import Preprocessing
from clf.recipes import Recipe
from clf.transforms import TrainTransform

log = logging.getLogger("clf")


class ImageData(BatchTransfer):
    """Images with their labels: a folder on disk, a source of one's own, or rendered jersey numbers.

    Args:
        root: Where the images are; always wins over a rendered source. A folder with train, valid (or val) and test
            inside, each with a folder for every class or with *.jsonl files; a folder of class folders, all of it
            train; a manifest (.csv, .tsv, .parquet, .jsonl) or a folder that holds one, or train, valid and test ones;
            or a list of these, each recognised by itself and merged split by split. An image that is in train and in
            validation or test, by whatever path, is an error.
        layout: What the root is: ``folder``, ``jsonl``, ``manifest``, or found out (``auto``).
        source: Where the samples come from without a root, by class_path, e.g.
            ``clf.data.torchvision.TorchvisionSource``; null renders jersey numbers.
        path_key: Key of a row's image; null takes ``image`` in the JSONL layout, and ``path``, ``image``, ``file`` or
            ``filename`` in manifests.
        label_key: Key of a row's label; null takes ``suffix``, else ``label``, and in manifests ``true`` before and
            ``class`` after these.
        split_key: Column of a manifest that says train, val or test; null takes ``split``, ``subset`` or ``partition``.
            Without one, a file called train, valid or test is that split, and any other is train.
        allow_outside_root: Whether manifests and *.jsonl files may name images that lie in no root, by an absolute
            path, ``..`` or a symbolic link; of ``predict``, outside the folder of the manifest.
        exclude: Text file, or several, with the images to leave out, one path on a line: counted from a root or from
            the file's folder, or absolute; ``*`` matches any text, slashes too; ``#`` begins a comment.
        train_only: Metadata that keeps an image in train, by key: a value or a list of values, e.g.
            ``{source: rendered}``; one key that fits is enough. Such images never become validation and are left out
            of validation and test splits, for both must measure real images. Looks into a row's ``metadata`` and at
            its other keys or columns.
        augment: What training does to its images: ``none``; ``light`` and ``ocr``, which mirror nothing, for text and
            digits; ``standard``, ``strong``; or a list of transforms by class_path, torchvision's v2 or
            clf.degradations.
        sampler: How often training draws which samples: ``none`` shows each once an epoch, ``balanced`` all classes
            equally often, ``weighted`` by ``sampler_weights``; or a sampler by class_path, e.g.
            clf.data.samplers.Balanced with ``num_samples``, or your own.
        sampler_weights: For ``weighted``: how often samples of a class are drawn, by the name of the class; unlisted
            classes have 1.
        val_fraction: Share of train that becomes validation where the data has none, in (0, 1).
        on_unknown_label: Whether a label in validation or test that train lacks stops the run (``error``), or its
            samples are left out (``skip``).
        on_error: Whether the first file that cannot be read stops the run (``raise``), or all files are read before the
            run and those that cannot be are left out of every split (``skip``), counted and listed. None is ever
            replaced by another image, and a file that goes bad later stops the run.
        max_bad_fraction: Share of all files that ``skip`` may leave out; more is an error.
        bad_list: Where ``skip`` keeps its list: written once, and read instead of the images as long as the data list
            the same ones. Null is excluded.txt in the run directory.
        cache: Where training images are kept decoded, from which each epoch is faster: in memory (``ram``) as long as a
            run needs them, in a folder (``disk``) that later runs use again, where they fit (``auto``), or not at all.
            Evaluation always reads the files.
        cache_size: Shorter edge in pixels of what is kept, or up to a quarter more; no image is enlarged. Null is what
            evaluation resizes to. Smaller takes less room, and loses what crops would show of large images.
        cache_dir: Folder of the caches on disk; null is ``clf/pixels`` in ``$XDG_CACHE_HOME`` or ``~/.cache``.
        batch_size: Images in a batch, of one process; the last batch of a training epoch may be smaller.
        num_workers: Processes that decode; ``auto`` is the cores this process may use, at most 8.
        pin_memory: Whether batches lie where a GPU can fetch them while it works; off without CUDA.
        persistent_workers: Whether workers stay from epoch to epoch; off without workers.
        prefetch_factor: Batches that each worker makes ahead; null is torch's own choice. Off without workers.
        predict: What ``clf predict`` looks at: an image, a folder, a glob, or a manifest (.jsonl, .csv, .tsv, .parquet)
            with a column ``path``; null is the test split.
        seed: Decides the order, the augmentation and the carved validation split.
    """

    def __init__(
        self,
        root: str | list[str] | None = None,
        layout: Layout = "auto",
        source: Source | None = None,
        path_key: str | None = None,
        label_key: str | None = None,
        split_key: str | None = None,
        allow_outside_root: bool = False,
        exclude: str | list[str] | None = None,
        train_only: dict[str, Value | list[Value]] | None = None,
        augment: Recipe | list[Callable[..., Any]] = "standard",
        sampler: Literal["none", "balanced", "weighted"] | Sampler = "none",
        sampler_weights: dict[str, float] | None = None,
        val_fraction: float = 0.1,
        on_unknown_label: Literal["error", "skip"] = "error",
        on_error: Literal["raise", "skip"] = "raise",
        max_bad_fraction: float = 0.01,
        bad_list: str | None = None,
        cache: Where = "none",
        cache_size: int | None = None,
        cache_dir: str | None = None,
        batch_size: int = 64,
        num_workers: int | Literal["auto"] = "auto",
        pin_memory: bool = True,
        persistent_workers: bool = True,
        prefetch_factor: int | None = 2,
        predict: str | None = None,
        seed: int = 42,
    ) -> None:
        super().__init__()
        require_in_range(val_fraction=val_fraction, max_bad_fraction=max_bad_fraction, cache_size=cache_size, seed=seed)
        require_in_range(batch_size=batch_size, num_workers=num_workers, prefetch_factor=prefetch_factor)
        require_one(root, source)
        self.root = root
        self.augment = augment
        self.sampler = choose_sampler(sampler, sampler_weights)
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.predict = predict
        self.seed = seed
        self._layout = layout
        self._source = source
        self._keys = RowKeys(path=path_key, label=label_key, split=split_key, facts=tuple(train_only or ()))
        self._outside = allow_outside_root
        self._exclude = [exclude] if isinstance(exclude, str) else exclude or []
        self._train_only = TrainOnly(train_only) if train_only else None
        self._val_fraction = val_fraction
        self._rule = on_unknown_label
        self._skips = on_error == "skip"
        self._bad = max_bad_fraction, bad_list
        self._cache_settings = cache, cache_size, cache_dir
        self._wanted = LoaderSettings(0, pin_memory, persistent_workers, prefetch_factor)
        self._bound_classes: list[str] | None = None
        self._preprocessing: Preprocessing | None = None
        self._said: set[str] = set()

    # What there is.

    @cached_property
    def catalogue(self) -> Catalogue:
        """What the keys and rules make of the data: listed once, when it is first asked for."""
        source, folders = open_data(
            self.root,
            source=self._source,
            layout=self._layout,
            keys=self._keys,
            outside=self._outside,
            keep_missing=self._skips,
        )
        most, record = self._bad
        return Catalogue(
            source,
            roots=folders,
            val_fraction=self._val_fraction,
            rule=self._rule,
            seed=self.seed,
            exclude=Exclusion(self._exclude, roots=folders) if self._exclude else None,
            skipping=Skipping(most=most, record=record, roots=folders) if self._skips else None,
            train_only=self._train_only,
            checkpoint=self._bound_classes,
        )

    @property
    def source(self) -> Lister:
        """Where the samples come from."""
        return self.catalogue.source

    @property
    def classes(self) -> list[str]:
        """Class names, sorted by code point: those of train, or the checkpoint's after `bind`."""
        return self.catalogue.classes

    @property
    def resampled(self) -> bool:
        """Whether training draws classes more or less often than they occur."""
        return self.sampler is not None

    @property
    def class_counts(self) -> list[int]:
        """Training samples of each class, in the order of the classes."""
        return self.catalogue.class_counts

    @property
    def available(self) -> list[Split]:
        """The splits that there are."""
        return self.catalogue.available

    def samples(self, split: Split) -> Samples:
        """List a split, as it is trained on or scored; every call returns the same list.

        Raises:
            UserError: If there is no such split, or a label breaks a rule.
        """
        return self.catalogue.samples(split)

    @cached_property
    def predict_samples(self) -> Samples:
        """What is predicted on: the inputs that ``predict`` names, or the test split."""
        if self.predict is None:
            return self.samples("test")
        found, notes = find_inputs(
            self.predict,
            classes=set(self._bound_classes or ()),
            path_key=self._keys.path,
            label_key=self._keys.label,
            outside=self._outside,
        )
        self._say(notes)
        return found

    def fingerprint(self) -> str:
        """Hash of every sample's split, path below the root and label: the same wherever the data lies."""
        return self.catalogue.fingerprint()

    def describe(self) -> str:
        """Say in one line what was recognised, e.g. ``folder layout in birds: 9 classes, 90 train / 10 val images``."""
        return self.catalogue.describe()

    # What a trainer asks for.

    def bind(self, preprocessing: Preprocessing, classes: list[str] | None = None) -> None:
        """Tell what the model expects, once it exists and before batches are asked for.

        Args:
            preprocessing: The model's.
            classes: The checkpoint's, for everything but training: data with other classes is refused.
        """
        self._preprocessing = preprocessing
        vars(self).pop("_cache", None)  # made for another size
        if classes is not None:
            self._bound_classes = classes
            vars(self).pop("catalogue", None)  # what it holds was not held to these classes

    def setup(self, stage: str) -> None:
        """List what the stage needs, so that its errors come before the first batch; a second call lists nothing."""
        for split in STAGE_SPLITS[stage]:
            self.samples(split)
        if stage == "fit" and self.sampler is not None:
            self.drawing.order(epoch=0)  # says what it cannot draw by
        if stage == "predict":
            _ = self.predict_samples
        if "catalogue" in vars(self):
            self._say(self.catalogue.notes)
        if stage == "fit":
            _ = self._cache  # now, when Ctrl-C still ends the process at once

    @cached_property
    def _cache(self) -> Cache | None:
        """Training images, decoded; built once, whoever asks for them how often."""
        where, shortest, folder = self._cache_settings
        if where == "none":
            return None
        wanted = Wanted(self.samples("train").paths, where, shortest or min(self.bound_preprocessing.resized), folder)
        return keep(wanted, say=lambda line: self._say([line]))

    def train_dataloader(self) -> Loader:
        """Batches of ``images`` and ``labels``, shuffled and augmented by seed and epoch, from where the trainer is."""
        transform = TrainTransform(self.augment, preprocessing=self.bound_preprocessing)
        pixels = partial(train_tensor, transform=transform, seed=self.seed)
        images = self._images(self.samples("train"), pixels=pixels, with_index=False, cache=self._cache)
        length = count_train_batches(self.drawing.count, batch_size=self.batch_size, world_size=self._world_size)
        return self._loader(images, plan=lambda: self.train_plan(*self._progress()), length=length)

    def train_plan(self, epoch: int, skip: int = 0) -> Iterator[list[Key]]:
        """Name the samples of this process's batches of an epoch, after the first ``skip``."""
        place = {"rank": self._rank, "world_size": self._world_size}
        return train_batches(self.drawing.order(epoch), batch_size=self.batch_size, epoch=epoch, skip=skip, **place)

    @cached_property
    def drawing(self) -> Drawing:
        """Which training samples an epoch shows, over all processes."""
        labels = np.array(self._label_indices(self.samples("train")))
        return Drawing(labels, self.classes, self.sampler, self.seed)

    def val_dataloader(self) -> Loader:
        """Batches of ``images``, ``labels`` and ``index``; always the same, in order."""
        return self._eval_loader(self.samples("val"))

    def test_dataloader(self) -> Loader:
        """Batches as in validation, of the test split."""
        return self._eval_loader(self.samples("test"))

    def predict_dataloader(self) -> Loader:
        """Batches as in validation; without ``labels`` where one is not known, with ``errors`` where a file is bad."""
        return self._eval_loader(self.predict_samples)

    # How it is made.

    @property
    def bound_preprocessing(self) -> Preprocessing:
        """What the model expects, once there is one."""
        assert self._preprocessing is not None, "bind() comes before batches"
        return self._preprocessing

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _progress(self) -> tuple[int, int]:
        """Say which epoch is to be loaded, and how many of its batches are done."""
        if self.trainer is None:
            return 0, 0
        # Overfitting wants the same few batches again and again.
        epoch = 0 if self.trainer.overfit_batches else self.trainer.current_epoch  # type: ignore[attr-defined]
        return epoch, self.trainer.fit_loop.epoch_loop.batch_progress.current.ready

    def state_dict(self) -> dict[str, int]:
        """Remember how the epoch is dealt out, and whether part of it is done."""
        trainer: Any = self.trainer
        done = trainer.fit_loop.epoch_loop.batch_progress.current.processed
        within, step = 0 < done < trainer.num_training_batches, self._world_size * self.batch_size
        return {"processes": self._world_size, "images_per_step": step, "within_epoch": int(within)}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Say where a run goes on in another number of processes; within an epoch the steps have to stay as large."""
        if self.trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return
        if (before := state_dict["processes"]) != self._world_size and self._rank == 0:
            log.warning(
                "trained by %s until now, from here on by %d", counted(before, "process", "processes"), self._world_size
            )
        here = self._world_size * self.batch_size
        if state_dict["within_epoch"] and (there := state_dict["images_per_step"]) != here:
            raise UserError(
                f"the checkpoint lies within an epoch of {there} images a step, and now a step has {here}: "
                f"data.batch_size={self.batch_size} in {self._world_size} process(es); keep {there} until the epoch is "
                "done, or go on from an epoch that was kept: --ckpt_path FILE"
            )

    def _eval_loader(self, samples: Samples) -> Loader:
        pixels = partial(eval_tensor, preprocessing=self.bound_preprocessing)
        place = {"batch_size": self.batch_size, "world_size": self._world_size}
        images = self._images(samples, pixels=pixels, with_index=True)
        plan = partial(eval_batches, len(samples), rank=self._rank, **place)
        return self._loader(images, plan=plan, length=count_eval_batches(len(samples), **place))

    def _label_indices(self, samples: Samples) -> list[int]:
        """Look up the classes of the samples whose label is known."""
        class_to_idx = {name: i for i, name in enumerate(self._bound_classes or self.classes)}
        return [class_to_idx[label] for label in samples.labels() if label is not None]

    def _images(self, samples: Samples, *, pixels: Pixels, with_index: bool, cache: Cache | None = None) -> Images:
        labels = self._label_indices(samples)
        return Images(
            samples.paths,
            labels=labels if len(labels) == len(samples) else None,
            pixels=pixels,
            size=self.bound_preprocessing.size,
            with_index=with_index,
            cache=cache,
        )

    def _loader(self, images: Images, *, plan: Callable[[], Iterable[list[Key]]], length: int) -> Loader:
        settings, notes = fit_to_machine(
            self._wanted,
            num_workers=self.num_workers,
            batches=length,
            processes=self.trainer.num_devices if self.trainer else 1,
            device=self.trainer.strategy.root_device.type if self.trainer else "cpu",
        )
        self._say([f"data.{note}" for note in notes])
        return Loader(images, plan=plan, length=length, settings=settings)

    def _say(self, lines: list[str]) -> None:
        for line in lines:
            if line not in self._said and self._rank == 0:
                log.info(line)
            self._said.add(line)
