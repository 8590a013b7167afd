"""Whoever hands out checkpoints may mean harm: nothing of theirs is run, and nothing outside is read or removed."""

import io
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import draw_folders
from test_checkpoints import Payload
from test_cli import TINY

from clf.main import main

CHECKPOINTS = Path("runs/tiny/001/checkpoints")
ROADS = (
    ("fit", "--ckpt_path", str(CHECKPOINTS / "last.ckpt")),
    ("fit", "--ckpt_path", "last"),
    ("fit", "--ckpt_path", "auto", "--config", "tiny.yaml", "--data.root", "images"),
    ("validate",),
    ("test",),
    ("predict", "--ckpt_path", str(CHECKPOINTS / "best.ckpt"), "--data.predict", "images/test"),
    ("export",),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run of one epoch, which may go on for a second one."""
    folder = tmp_path_factory.mktemp("trained")
    counts = {f"{split}/{name}": 4 if split == "train" else 2 for split in ("train", "valid", "test") for name in "ab"}
    draw_folders(folder / "images", counts)
    (folder / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["fit", "--config", "tiny.yaml", "--data.root", "images", "--trainer.max_epochs", "1"]) == 0
        config, metrics = (CHECKPOINTS.parent / name for name in ("config.yaml", "metrics.json"))
        config.write_text(config.read_text().replace("max_epochs: 1", "max_epochs: 2"))
        metrics.write_text(metrics.read_text().replace('"finished"', '"unfinished"'))
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that working folder, to be spoilt."""
    shutil.copytree(trained, tmp_path / "work", symlinks=True)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def put(make: Callable[[Path], object]) -> None:
    """Put something in the place of both checkpoints, and leave no other one to fall back to, nor sums."""
    for path in CHECKPOINTS.iterdir():
        path.unlink()
    for name in ("last.ckpt", "best.ckpt"):
        make(CHECKPOINTS / name)


def changed(**entries: Any) -> Callable[[Path], None]:
    """A good checkpoint, but for some entries."""
    good = torch.load(CHECKPOINTS / "last.ckpt", weights_only=True)
    return lambda path: torch.save({**good, **entries}, path)


def refusals(roads: tuple[tuple[str, ...], ...], capfd: pytest.CaptureFixture[str]) -> list[str]:
    """What each command says, in one line, before it gives up."""
    said = []
    for road in roads:
        capfd.readouterr()
        assert main(road) == 2, road
        [line] = [line for line in capfd.readouterr().err.splitlines() if line.startswith("clf: ")]
        said.append(line)
    return said


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "key",
    [
        *("callbacks", "loops", "optimizer_states", "lr_schedulers", "state_dict", "clf", "epoch"),
        *("hyper_parameters", "datamodule_hyper_parameters", "anything"),
    ],
)
def test_code_anywhere_in_a_checkpoint_is_refused_by_every_verb(
    run: Path, key: str, capfd: pytest.CaptureFixture[str]
) -> None:
    put(changed(**{key: {"deep": [Payload(run / "canary")]}}))
    before = contents(run)
    for line in refusals(ROADS if key == "callbacks" else (ROADS[1], ROADS[3]), capfd):
        assert ".ckpt is corrupt, or holds code beside plain values" in line
    assert contents(run) == before, "neither a canary nor anything else"


def raw_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(path.parent / "canary")))


def old_format(path: Path) -> None:
    torch.save({"clf": Payload(path.parent / "canary")}, path, _use_new_zipfile_serialization=False)


def oldest_format(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            content = pickle.dumps(Payload(path.parent / "canary"))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def torchscript(path: Path) -> None:
    class Doubling(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + x

    torch.jit.trace(Doubling(), torch.zeros(1)).save(str(path))  # type: ignore[no-untyped-call]


def archive_of(data: bytes, *, packed: bool = False) -> Callable[[Path], None]:
    """A zip archive laid out as torch does, around a pickle of one's own."""

    def write(path: Path) -> None:
        kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", kind) as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/version", "3\n")
            archive.writestr("archive/byteorder", "little")

    return write


def behind(path: Path) -> None:
    """A pickle with an archive behind it: what begins like one thing and ends like another."""
    raw_pickle(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/data.pkl", b"")


# A storage's type, and the name of a persistent object, that are calls: ("storage", mkdir("canary"), …).
CALL = b"cos\nmkdir\n(S'canary'\ntR"
STORAGE = b"\x80\x02(S'storage'\n" + CALL + b"S'0'\nS'cpu'\nI1\ntQ."
PERSISTENT = b"\x80\x02(" + CALL + b"tQ."


@pytest.mark.parametrize(
    "make",
    [
        *(raw_pickle, old_format, oldest_format, torchscript, behind),
        *(archive_of(STORAGE), archive_of(PERSISTENT)),
        pytest.param(archive_of(bytes(300_000_000), packed=True), id="bomb"),
        pytest.param(lambda path: path.symlink_to("/dev/zero"), id="device"),
        pytest.param(lambda path: path.symlink_to(path.name), id="loop"),
        pytest.param(lambda path: os.mkfifo(path), id="pipe"),
        pytest.param(lambda path: path.mkdir(), id="folder"),
        pytest.param(lambda path: path.symlink_to("gone.ckpt"), id="dangling"),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.*:DeprecationWarning")
def test_what_only_looks_like_a_checkpoint_is_refused_by_every_verb(
    run: Path, make: Callable[[Path], object], capfd: pytest.CaptureFixture[str]
) -> None:
    put(make)
    before = contents(run)
    for line in refusals(ROADS, capfd):
        assert ".ckpt" in line
    assert contents(run) == before


def test_a_checkpoint_from_the_network_is_refused(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    roads = tuple((verb, "--ckpt_path", "http://127.0.0.1:1/a.ckpt") for verb in ("fit", "validate", "test", "export"))
    for line in refusals(roads, capfd):
        assert "is a URL; download the file first" in line


@pytest.mark.parametrize(
    "facts",
    [
        {"network": {"arch": "evil.yaml"}},
        {"network": {"arch": {"class_path": "evil.Evil"}}},
        {"network": {"arch": "hf-hub:somebody/evil"}},
        {"network": {"arch": "local-dir:/tmp"}},
        {"network": {"arch": "test_resnet", "network": "evil.yaml"}},
        {"classes": {"class_path": "evil.Evil"}},
        {"classes": ["a", "a"]},
        {"preprocessing": "evil.yaml"},
        {"preprocessing": {"size": "evil.yaml"}},
        {"temperature": "evil.yaml"},
        {"weights_from": ["evil.yaml"]},
    ],
)
def test_what_a_checkpoint_says_of_itself_names_neither_files_nor_code(
    run: Path, facts: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    (run / "evil.py").write_text("import os\nos.mkdir('canary')\n")
    (run / "evil.yaml").write_text("class_path: evil.Evil\n")
    good = torch.load(CHECKPOINTS / "last.ckpt", weights_only=True)
    put(changed(clf={**good["clf"], **facts}))
    [name] = facts
    for line in refusals((ROADS[0], ROADS[3]), capfd):
        assert f".ckpt is corrupt: its 'clf' entry says {name}=" in line
    assert not (run / "canary").exists()


def test_classes_that_lightning_s_keys_name_are_not_imported(run: Path) -> None:
    (run / "evil.py").write_text("import os\nos.mkdir('canary')\n\ndef make(*_, **__): ...\n")
    names = {"_class_path": "evil.Evil", "_instantiator": "evil.make", "class_path": "evil.Evil"}
    put(changed(hyper_parameters=names, datamodule_hyper_parameters=names, hparams_name="kwargs"))
    for road in (ROADS[3], ROADS[1]):
        assert main(road) == 0, "these keys are not looked at"
    assert not (run / "canary").exists()


def test_a_checkpoint_cannot_have_a_folder_removed(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    good = torch.load(CHECKPOINTS / "last.ckpt", weights_only=True)
    kept = {"../..": torch.tensor(-1.0), "..": torch.tensor(-2.0), ".": torch.tensor(-3.0)}
    state = good["callbacks"]["Checkpoint"] | {"best_k_models": kept, "kth_best_model_path": ".."}
    put(changed(callbacks=good["callbacks"] | {"Checkpoint": state}))
    [line] = refusals((ROADS[1],), capfd)
    assert "speaks of '..' as one of its run" in line
    assert (run / "images/train/a/0.png").exists()
    assert (CHECKPOINTS / "last.ckpt").exists()


@pytest.mark.parametrize(
    "entries",
    [{"optimizer_states": [{"state": 3}]}, {"loops": {"fit_loop": 5}}, {"training_metrics": 5}, {"state_dict": {}}],
)
def test_states_that_make_no_sense_are_the_checkpoint_s_fault(
    run: Path, entries: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    put(changed(**entries))
    [line] = refusals((ROADS[0],), capfd)
    assert "last.ckpt cannot be restored (" in line


@pytest.mark.drawn
def test_a_checkpoint_cannot_have_other_files_shown(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr("clf.callbacks.mistakes.Mistakes._draw", lambda *words: shown.extend(words[3].rows))
    good = torch.load(CHECKPOINTS / "last.ckpt", weights_only=True)
    own = ("images/valid/a/0.png", "a", "b", 0.9)
    best = {"split": "val", "epoch": 0, "step": 1, "images": 4, "wrong": 2, "rows": [own, ("/etc/hostname", *own[1:])]}
    # No epoch will be better than this.
    mistakes = {"Mistakes": {"best": best}, "Evaluating": {"best": {"max val/acc_top1": 2.0}}}
    put(changed(callbacks=good["callbacks"] | mistakes))
    assert main(ROADS[1]) == 0
    assert shown == [own]
