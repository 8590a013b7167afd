"""What a checkpoint says is read without running anything in it, and what is no checkpoint is refused by name."""

import argparse
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clf.checkpoints import Facts, describe_mismatch, read_facts
from clf.errors import UserError
from clf.preprocess import Preprocessing

SPEC = asdict(Preprocessing(size=(48, 64), mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2)))
FACTS = Facts(["0", "00", "1"], {"arch": "resnet18"}, SPEC, "ImageNet")


def checkpoint(**entries: Any) -> dict[str, Any]:
    """What a fit writes, as far as it matters here."""
    return {"state_dict": {"network.weight": torch.zeros(8, 8)}, "epoch": 3, "clf": FACTS.to_dict()} | entries


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_facts(path)
    message = str(caught.value)
    assert message.startswith(f"checkpoint {path} ")
    assert "weights_only" not in message  # torch's advice is to load such a file anyway
    assert "\n" not in message
    return message.removeprefix(f"checkpoint {path} ")


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.canary),)


def test_facts_survive_the_way_through_a_file(tmp_path: Path) -> None:
    torch.save(checkpoint(), tmp_path / "best.ckpt")
    assert read_facts(tmp_path / "best.ckpt") == FACTS


def test_facts_are_plain_values(tmp_path: Path) -> None:
    assert FACTS.to_dict() == {
        "format": 1,
        "classes": ["0", "00", "1"],
        "network": {"arch": "resnet18"},
        "preprocessing": SPEC,
        "weights_from": "ImageNet",
        "temperature": 1.0,
    }


def test_facts_of_a_later_release_with_more_entries_are_read(tmp_path: Path) -> None:
    torch.save(checkpoint(clf={**FACTS.to_dict(), "trained_by": "somebody"}), tmp_path / "a.ckpt")
    assert read_facts(tmp_path / "a.ckpt") == FACTS


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    torch.save(checkpoint(callbacks=Payload(canary)), tmp_path / "evil.ckpt")
    assert refusal(tmp_path / "evil.ckpt") == (
        "is corrupt, or holds code beside plain values; give another --ckpt_path"
    )
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Payload(canary)))
    assert "another kind of file" in refusal(tmp_path / "evil.pkl")
    assert not canary.exists()
    torch.load(tmp_path / "evil.ckpt", weights_only=False)
    assert canary.exists()  # the trap was armed


def test_an_object_of_somebody_s_class_is_not_imported(tmp_path: Path) -> None:
    torch.save(checkpoint(hyper_parameters=argparse.Namespace(lr=1)), tmp_path / "a.ckpt")
    assert "holds code beside plain values" in refusal(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"", "empty"),
        (b"just some words\n", "another kind of file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "another kind of file"),
        (bytes(5000), "another kind of file"),
    ],
)
def test_a_file_of_another_kind_is_no_checkpoint(tmp_path: Path, contents: bytes, reason: str) -> None:
    (tmp_path / "a.ckpt").write_bytes(contents)
    assert refusal(tmp_path / "a.ckpt") == (
        f"is corrupt or no checkpoint at all: the file is {reason}; give another --ckpt_path"
    )


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_checkpoint_that_was_cut_off_is_corrupt(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(checkpoint(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: max(2, int(share * len(whole)))])
    assert refusal(path) == "is corrupt or no checkpoint at all: the file is cut off; give another --ckpt_path"


def test_a_zip_of_something_else_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
        archive.writestr("photo.txt", "no photo")
    assert "is corrupt, or holds code" in refusal(tmp_path / "a.ckpt")


def test_a_checkpoint_that_would_grow_in_memory_is_refused_unread(tmp_path: Path) -> None:
    torch.save(checkpoint(state_dict={"weight": torch.zeros(1000, 1000)}), tmp_path / "a.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "a.ckpt") as whole,
        zipfile.ZipFile(tmp_path / "b.ckpt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    assert refusal(tmp_path / "b.ckpt") == ("is packed, as clf writes none: it could fill the memory; give another one")


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=8))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_refused_by_name_or_does_not_touch_the_facts(tmp_path: Path, at: int, damage: bytes) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"clf": FACTS.to_dict()}, path)
    contents = path.read_bytes()
    path.write_bytes(contents[:at] + damage + contents[at + len(damage) :])
    try:
        read_facts(path)
    except UserError as error:
        assert str(path) in str(error)  # noqa: PT017 - damage beside the facts is no error


def test_a_file_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "cannot be read: Is a directory"
    assert refusal(tmp_path / "gone.ckpt") == "cannot be read: No such file or directory"


@pytest.mark.parametrize(
    "foreign",
    [
        {"state_dict": {"w": torch.zeros(2)}, "pytorch-lightning_version": "2.6.6", "epoch": 1},
        {"clf": "a text"},
        {},
        [torch.zeros(2)],
        torch.zeros(2),
    ],
)
def test_a_checkpoint_of_another_program_is_told_from_ours(tmp_path: Path, foreign: object) -> None:
    torch.save(foreign, tmp_path / "a.ckpt")
    assert refusal(tmp_path / "a.ckpt") == "was not written by clf (it has no 'clf' entry)"


def test_another_format_is_named(tmp_path: Path) -> None:
    torch.save(checkpoint(clf={**FACTS.to_dict(), "format": 2}), tmp_path / "a.ckpt")
    assert refusal(tmp_path / "a.ckpt") == "has format 2; this version of clf reads 1"


def test_missing_facts_are_named(tmp_path: Path) -> None:
    torch.save(checkpoint(clf={"format": 1, "classes": ["a", "b"], "network": {}}), tmp_path / "a.ckpt")
    assert refusal(tmp_path / "a.ckpt") == "is corrupt: its 'clf' entry lacks preprocessing, weights_from"


def test_a_checkpoint_from_before_temperatures_has_none(tmp_path: Path) -> None:
    known = {name: value for name, value in FACTS.to_dict().items() if name != "temperature"}
    torch.save(checkpoint(clf=known), tmp_path / "a.ckpt")
    assert read_facts(tmp_path / "a.ckpt").temperature == 1


# What does not fit


def facts(
    classes: list[str] = FACTS.classes,
    network: dict[str, Any] = FACTS.network,
    weights_from: str = "ImageNet",
    **spec: Any,
) -> Facts:
    return Facts(classes, network, SPEC | spec, weights_from)


@pytest.mark.parametrize(
    ("here", "differences"),
    [
        (facts(), []),
        (facts(weights_from="random"), []),
        (facts(["0", "00"]), ["classes (3 classes there, 2 here; only there: '1')"]),
        (facts(["0", "00", "1", "2"]), ["classes (3 classes there, 4 here; only here: '2')"]),
        (
            facts(["0", "01", "1"]),
            ["classes (3 classes there, 3 here; only there: '00'; only here: '01')"],
        ),
        (facts(["00", "0", "1"]), ["classes (3 classes there, 3 here; in another order)"]),
        (
            facts([*FACTS.classes, *"abcdefgh"]),
            ["classes (3 classes there, 11 here; only here: 'a', 'b', 'c', 'd', 'e' and 3 more)"],
        ),
        (facts(network={"arch": "resnet50"}), ["arch ('resnet18' there, 'resnet50' here)"]),
        (
            facts(network={"class_path": "my.Net"}),
            ["arch ('resnet18' there, None here)", "class_path (None there, 'my.Net' here)"],
        ),
        (
            facts(size=(64, 48), crop_pct=1.0),
            ["crop_pct (0.875 there, 1.0 here)", "size ((48, 64) there, (64, 48) here)"],
        ),
        (
            facts(["a", "b"], {"arch": "vit"}, mean=(0.0, 0.0, 0.0)),
            [
                "classes (3 classes there, 2 here; only there: '0', '00', '1'; only here: 'a', 'b')",
                "arch ('resnet18' there, 'vit' here)",
                "mean ((0.5, 0.5, 0.5) there, (0.0, 0.0, 0.0) here)",
            ],
        ),
    ],
)
def test_what_makes_a_checkpoint_unfit_is_named(here: Facts, differences: list[str]) -> None:
    assert describe_mismatch(FACTS, here) == differences
