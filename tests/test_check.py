"""``clf check``: what it says of data that are clean and of data that are not, and that it leaves both as they were."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from time import sleep
from typing import Any, get_args

import pytest
from datasets import draw, draw_folders, table, write_rows
from PIL import Image
from test_scan import plant

from clf.check.duplicates import _EXACT, _NEAR
from clf.check.looks import Looks
from clf.data.scan import Problem, Seen
from clf.data.synthetic import SyntheticJerseys
from clf.main import main

ROOT = Path(__file__).parent.parent
DATA = ("--only", "files,duplicates,labels")
TINY = """
model: {arch: test_resnet, pretrained: false, image_size: 32, warmup_epochs: 0}
data: {batch_size: 4, num_workers: 0, augment: light}
trainer: {accelerator: cpu, max_epochs: 1, num_sanity_val_steps: 0}
callbacks: {early_stopping: null}
"""


def check(capfd: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Check, and read what was found."""
    code = main(["check", *words, "--json"])
    out, err = capfd.readouterr()
    assert out, err
    found: dict[str, Any] = json.loads(out)
    assert found["exit_code"] == code
    assert sum(found["counts"].values()) == len(found["findings"])
    return found


def rules(found: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Severity and count of each rule."""
    assert all(len(each["images"]) in (0, each["count"]) for each in found["findings"])
    return {each["rule"]: (each["severity"], each["count"]) for each in found["findings"]}


def everything(folder: Path) -> dict[str, str]:
    """Hash all that lies in a folder, with its date."""
    return {
        str(path): f"{path.lstat().st_mtime_ns} {sha256(path.read_bytes()).hexdigest()}"
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def draw_birds(root: Path) -> Path:
    """Draw two classes in three splits, with nothing to complain of."""
    return draw_folders(root, {f"{s}/{c}": 12 for s in ("train", "valid", "test") for c in ("robin", "wren")})


@pytest.fixture
def spoilt(workdir: Path) -> Path:
    """Birds with a problem of each kind."""
    root = draw_birds(workdir / "birds")
    plant(root / "train/robin")
    shutil.copy(root / "train/wren/0.png", root / "test/wren/leak.png")
    shutil.copy(root / "train/wren/1.png", root / "train/robin/1b.png")
    shutil.copy(root / "train/wren/2.png", root / "train/wren/2b.png")
    shutil.copy(root / "valid/wren/3.png", root / "test/wren/3b.png")
    Image.open(root / "train/wren/5.png").save(root / "train/wren/5.bmp")
    os.rename(root / "train/wren/5.bmp", root / "train/wren/5b.jpg")
    draw(root / "valid/Robin/0.png", seed=77)
    return root


SPOILT = {
    **dict.fromkeys(("empty-file", "not-an-image", "too-large-image", "truncated-image"), ("error", 1)),
    **dict.fromkeys(("damaged-image", "broken-link"), ("error", 1)),
    "leak": ("error", 1),
    "contradicting-labels": ("warning", 2),
    "duplicate": ("note", 2),
    "duplicate-in-val-and-test": ("warning", 1),
    "wrong-suffix": ("note", 1),
    "unknown-label": ("error", 1),
    "look-alike-labels": ("warning", 44),
}


def test_what_is_there_once_is_said_in_the_singular(capfd: pytest.CaptureFixture[str], spoilt: Path) -> None:
    found = check(capfd, "--data.root", str(spoilt), "--few", "13", *DATA)
    once = [each["message"] for each in found["findings"] if each["count"] == 1]
    assert len(once) > 8
    plural = re.compile(r"\b1 (files|images|rows|labels) |\b1 of \d+ \w+ (are|have) |\b1 called \S+ hold ")
    assert [message for message in once if plural.search(message)] == []


def test_each_planted_problem_is_found_with_its_count_in_one_go(
    spoilt: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = everything(spoilt.parent)
    found = check(capfd, "--data.root", "birds", *DATA)
    assert rules(found) == SPOILT
    assert found["exit_code"] == 2
    assert found["splits"] == {"train": 33, "val": 25, "test": 26}
    (leak,) = (each for each in found["findings"] if each["rule"] == "leak")
    assert (leak["images"], leak["partners"]) == (["birds/train/wren/0.png"], ["birds/test/wren/leak.png"])
    assert everything(spoilt.parent) == before


def test_an_exclusion_list_leaves_out_what_was_found_and_is_never_overwritten(
    spoilt: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(spoilt / "valid/Robin")
    os.rename(spoilt / "train/robin/truncated-image.jpg", spoilt / "train/robin/# [1]*?.jpg ".strip())
    check(capfd, "--data.root", "birds", *DATA, "--exclude_to", "bad.txt")
    listed = Path("bad.txt").read_text()
    assert "# truncated-image: " in listed
    assert "# like birds/test/wren/leak.png\ntrain/wren/0.png\n" in listed
    clean = check(capfd, "--data.root", "birds", "--data.exclude", "bad.txt", *DATA)
    assert {each["severity"] for each in clean["findings"]} == {"note"}
    assert clean["splits"] == {"train": 24, "val": 23, "test": 26}
    assert main(["check", "--data.root", "birds", *DATA, "--exclude_to", "bad.txt"]) == 2
    assert "the file exists" in capfd.readouterr().err
    assert Path("bad.txt").read_text() == listed


def test_images_to_leave_out_are_counted_whatever_their_names_hold(
    workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    draw_birds(workdir / "birds")
    Path("birds/train/wren/one\x85two\u2028three.png").write_bytes(b"no image")
    main(["check", "--data.root", "birds", "--only", "files", "--exclude_to", "bad.txt"])
    assert "bad.txt: 1 image to leave out;" in capfd.readouterr().err


def folders(root: Path) -> list[str]:
    return ["--data.root", str(draw_birds(root))]


def class_folders(root: Path) -> list[str]:
    draw_birds(root)
    return ["--data.root", str(root / "train")]


def jsonl(root: Path) -> list[str]:
    draw_birds(root)
    for split in ("train", "valid", "test"):
        rows = [
            json.dumps({"image": f"{name}/{at}.png", "label": name}) for name in ("robin", "wren") for at in range(12)
        ]
        write_rows(root, f"{split}/rows.jsonl", *rows)
    return ["--data.root", str(root)]


def manifest(root: Path) -> list[str]:
    draw_birds(root)
    rows = [
        {"path": f"{root}/{split}/{name}/{at}.png", "label": name, "split": split}
        for split in ("train", "valid", "test")
        for name in ("robin", "wren")
        for at in range(12)
    ]
    return ["--data.root", str(table(root.parent / "rows.csv", rows))]


def two_roots(root: Path) -> list[str]:
    draw_birds(root / "one")
    draw_folders(root / "two", {"train/robin": 15, "train/jay": 25, "valid/jay": 3, "test/jay": 1})
    return ["--data.root", f"[{root}/one, {root}/two]"]


def rendered(root: Path) -> list[str]:
    source = SyntheticJerseys(classes=("0", "00", "7", "11"), train_per_class=25, val_per_class=10, test_per_class=10)
    for split in ("train", "val", "test"):
        source.samples(split)
    return ["--data.root", str(source.root)]


@pytest.mark.parametrize("make", [folders, class_folders, jsonl, manifest, two_roots, rendered])
def test_clean_data_give_no_warning_in_any_layout(
    workdir: Path, capfd: pytest.CaptureFixture[str], make: Callable[[Path], list[str]]
) -> None:
    found = check(capfd, *make(workdir / "images"), *DATA, "--strict")
    assert [each["message"] for each in found["findings"] if each["severity"] != "note"] == []
    assert found["exit_code"] == 0


def test_rows_whose_image_is_missing_are_all_listed(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    draw_birds(workdir / "birds")
    rows = [json.dumps({"image": f"{name}/{at}.png", "label": name}) for name in ("robin", "wren") for at in range(14)]
    (workdir / "birds/train/rows.jsonl").write_text("\n".join([*rows, '{"image": "x.png", "label": " "}']))
    shutil.rmtree(workdir / "birds/valid")
    shutil.rmtree(workdir / "birds/test")
    found = check(capfd, "--data.root", "birds", *DATA)
    assert rules(found) == {"missing-file": ("error", 4), "empty-label": ("note", 1)}


def test_a_split_that_cannot_be_listed_does_not_hide_what_is_wrong_with_the_others(
    workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    draw_birds(workdir / "birds")
    (workdir / "birds/train/empty").mkdir()
    (workdir / "birds/test/robin/0.png").write_bytes(b"")
    found = check(capfd, "--data.root", "birds", *DATA)
    assert rules(found) == {"unlisted-split": ("error", 1), "empty-file": ("error", 1)}


def test_a_check_says_what_fit_refuses_and_measures_the_cost_of_what_it_would_not(
    workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    draw_birds(workdir / "birds")
    (workdir / "tiny.yaml").write_text(TINY)
    words = ("--config", "tiny.yaml", "--data.root", "birds", "--price_per_hour", "2", "--seconds", "0.2")
    found = check(capfd, *words)
    assert (found["exit_code"], found["cost"]["price_per_hour"]) == (0, 2)
    (workdir / "birds/valid/robin/0.png").unlink()
    os.link(workdir / "birds/train/robin/0.png", workdir / "birds/valid/robin/0.png")
    shutil.copytree(workdir / "birds/valid/wren", workdir / "birds/valid/owl")
    found = check(capfd, *words)
    refused = [each["message"] for each in found["findings"] if each["rule"] == "refused"]
    assert len(refused) == 1
    assert "val has labels that train lacks: 'owl'" in refused[0]
    assert {"leak", "unknown-label", "contradicting-labels", "not-measured"} <= set(rules(found))
    assert (found["exit_code"], found["cost"]) == (2, None)
    assert not (workdir / "runs").exists()


def test_what_fit_would_skip_is_a_warning_until_it_is_too_much(
    workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    draw_birds(workdir / "birds")
    (workdir / "birds/train/robin/0.png").write_bytes(b"")
    skip = ("--data.root", "birds", *DATA, "--data.on_error", "skip")
    found = check(capfd, *skip, "--data.max_bad_fraction", "0.1")
    assert (rules(found), found["exit_code"]) == ({"empty-file": ("warning", 1)}, 0)
    assert check(capfd, *skip, "--data.max_bad_fraction", "0.1", "--strict")["exit_code"] == 1
    assert rules(check(capfd, *skip)) == {"empty-file": ("warning", 1), "too-many-bad-files": ("error", 1)}


def test_people_get_a_table_by_subject_with_the_worst_first(spoilt: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--data.root", "birds", *DATA, "--json", "found.json"]) == 2
    out = capfd.readouterr().out
    subjects = [line for line in out.splitlines() if line in ("files", "duplicates", "labels", "cost")]
    assert subjects == ["files", "duplicates", "labels"]
    told = [line.split()[0] for line in out.splitlines() if line.startswith(("  error ", "  warning ", "  note "))]
    assert told == [*["error"] * 6, "note", "error", "warning", "warning", "note", "error", "warning"]
    assert out.splitlines()[-1] == "check: 8 errors, 3 warnings, 2 notes"
    assert json.loads(Path("found.json").read_text())["counts"] == {"error": 8, "warning": 3, "note": 2}


def test_help_says_what_there_is_to_look_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: clf check")
    assert {"--strict", "--exclude_to", "--price_per_hour", "--only"} <= set(out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "label"], "no subject 'label'; did you mean 'labels'?"),
        (["--price_per_hour", "cheap"], "'cheap' must be a number"),
        (["--price_per_hour", "-1"], "'-1' must be a number, e.g. 0.35, and none below 0"),
        (["--price_per_hour", "nan"], "'nan' must be a number"),
        (["--data.root", "nowhere"], "data.root='nowhere' is not a folder"),
        (["--data.root", ".", "--data.bach_size", "3"], "data.batch_size"),
        (["--json", "no/where.json"], "--json no/where.json: there is no such folder"),
        (["--json", "folder"], "--json 'folder' is a folder; choose a file"),
        (["--json", "mine.yaml"], "--json mine.yaml: the file exists and is not called .json"),
        (["--exclude_to", "folder"], "--exclude_to 'folder' is a folder"),
        (["--json", "one", "--exclude_to", "one"], "--exclude_to one: the file exists, or is in use"),
        (["--run"], "--run needs a value"),
        (["--only", ""], "no subject ''"),
        (["birds"], "'birds' is no option; to look at data: --data.root birds"),
        ([], "no run found"),
    ],
)
def test_a_mistake_in_usage_is_one_message(
    workdir: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    Path("folder").mkdir()
    Path("mine.yaml").write_text("{}")
    assert main(["check", *words]) == 2
    err = capsys.readouterr().err.splitlines()
    assert message in err[-1]


def test_the_documents_name_every_rule() -> None:
    sources = [*(ROOT / "clf/check").glob("*.py"), ROOT / "clf/diagnosis.py"]
    rules = {rule for path in sources for rule in re.findall(r'[Ff]inding\(\s*"([a-z-]+)"', path.read_text("utf-8"))}
    rules |= {rule for each in (_EXACT, _NEAR) for rule in (each.leak, each.label, each.twice)} | {*get_args(Problem)}
    pages = ((ROOT / f"docs/howto/{name}.md").read_text("utf-8") for name in ("check", "cost"))
    assert len(rules) > 40
    assert rules - {word for page in pages for word in re.findall(r"`([a-z-]+)`", page)} == set()


def test_data_of_which_no_split_can_be_listed_are_findings_too(
    workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    draw_birds(workdir / "birds")
    Path("all.txt").write_text("*\n")
    found = check(capfd, "--data.root", "birds", "--data.exclude", "all.txt", *DATA)
    assert [each["rule"] for each in found["findings"]] == ["unlisted-split"] * 3
    assert found["exit_code"] == 2


@pytest.mark.parametrize(("subject", "rules"), [("configuration", ["refused"]), ("cost", ["not-measured", "refused"])])
def test_a_run_of_no_batches_is_refused_as_fit_does_whatever_was_asked_for(
    workdir: Path, capfd: pytest.CaptureFixture[str], subject: str, rules: list[str]
) -> None:
    draw_birds(workdir / "birds")
    words = ["--data.root", "birds", "--only", subject, "--trainer.limit_train_batches", "0"]
    found = check(capfd, *words)
    assert [each["rule"] for each in found["findings"]] == rules
    assert "trainer.limit_train_batches=0 leaves nothing to train on" in found["findings"][-1]["message"]
    assert main(["check", *words]) == 2
    assert "leaves nothing to train on" in capfd.readouterr().out


def test_what_cannot_be_written_in_the_end_is_one_message(workdir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    draw_birds(workdir / "birds")
    assert main(["check", "--data.root", "birds", *DATA, "--json", "/proc/found.json"]) == 2
    out, err = capfd.readouterr()
    assert "check: nothing found" in out
    assert err.splitlines()[-1].startswith("clf: --json '/proc/found.json' cannot be written: ")


def test_ctrl_c_ends_a_check_at_once_and_without_a_traceback(
    workdir: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_folders(workdir / "birds", {"train/robin": 100, "train/wren": 100})
    seen: list[int] = []

    def look(_: Looks, index: int, __: Seen) -> None:
        seen.append(index)
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        sleep(0.01)

    monkeypatch.setattr(Looks, "add", look)
    assert main(["check", "--data.root", "birds", *DATA]) == 130
    out, err = capfd.readouterr()
    assert (out, "Traceback" in err) == ("", False)
    assert len(seen) < 200
