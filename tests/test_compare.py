"""``clf compare`` as a user sees it: what it prints and writes, and what it refuses."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from datasets import draw_folders
from made_up_runs import HOSTILE, write_compared

from clf import runs
from clf.main import main
from clf.runs import Run


@pytest.fixture(autouse=True)
def folder(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All tests work in a folder of their own, which holds no runs yet, and in a terminal that is wide enough."""
    monkeypatch.setenv("COLUMNS", "120")
    return workdir


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the verb, and return what it printed with single spaces."""
    code = main(["compare", *words])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return re.sub(r"[^\S\n]+", " ", out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    code = main(["compare", *words])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    return err


def numbers(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    said(capsys, *words, "--json", "made.json")
    return json.loads(Path("made.json").read_text("utf-8"))


SMALLER = {"model": {"image_size": 64, "loss": {"label_smoothing": 0.1}}}


def test_the_answer_is_a_sentence_below_what_differs_and_what_was_reached(capsys: pytest.CaptureFixture[str]) -> None:
    write_compared("base/001", test="0" * 12 + "1" * 28)
    write_compared("small/001", test="1" * 39 + "0", config=SMALLER)
    text = said(capsys, "runs/base/001", "runs/small/001")
    assert "\n small/001 model.image_size 80 64\n" in text
    assert "label_smoothing" not in text
    assert "test: 40 images\n" in text
    assert "\n base/001 42 70.00 % 54.57–81.93 % 0.500 0.400–0.600 0.125 a: 70 % of 40 1.1\n" in text
    assert "\n small/001 42 97.50 % 87.12–99.56 % 0.500 0.400–0.600 0.125 a: 98 % of 40 1.1\n" in text
    assert "against base/001, on the same images of test\n" in text
    assert "\n small/001 +27.50 +10.89 to +43.28 12 1 p = 0.003\n" in text
    assert "p: McNemar, exact. Interval: Newcombe 1998, method 10" in text
    assert "\nsmall/001 is better than base/001 (p = 0.003; 12 images won, 1 lost)\n" in text
    assert "validation" not in text
    assert "Holm" not in text
    assert "note: p and intervals say what other images of this kind could change, not what other seeds could\n" in text


def test_the_first_run_is_what_the_others_are_compared_with(capsys: pytest.CaptureFixture[str]) -> None:
    for name, marks, size in (("a/001", "0" * 9 + "1", 1), ("b/001", "1" * 10, 2), ("c/001", "0" * 9 + "1", 3)):
        write_compared(name, test=marks, config={"size": size})
    text = said(capsys, "runs/b/001", "runs/a/001", "runs/c/001")
    assert "\na/001 is worse than b/001 (p = 0.008; 0 images won, 9 lost)\nc/001 is worse than b/001" in text
    assert "\n a/001 -90.00 -98.21 to -48.83 0 9 p = 0.004 p = 0.008\n" in text
    assert "corrected for 2 comparisons by Holm's method" in text


def test_json_holds_all_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    write_compared("base/001", test="0110", val="11")
    write_compared("small/001", test="0101", val="01", config=SMALLER)
    made = numbers(capsys, "runs/base/001", "runs/small/001", "--split", "both")
    assert (made["splits"], made["n"]) == (["val", "test"], {"val": 2, "test": 4})
    assert made["settings"] == [{"key": "model.image_size", "values": ["80", "64"]}]
    [found] = made["comparisons"]
    assert (found["n"], found["correct"], found["gained"], found["lost"]) == (6, [4, 3], 1, 2)
    assert found["difference"] == pytest.approx(-1 / 6)
    assert (found["p"], found["verdict"]) == (1, "noise")
    assert found["sentence"].startswith("small/001 against base/001: the difference of 1 image is within noise")
    figures = made["runs"][1]["splits"]
    assert (figures["val"]["correct"], figures["test"]["acc_top1"], figures["test"]["ece"]) == (1, 0.5, 0.125)
    assert (made["runs"][1]["path"], made["runs"][1]["minutes"]) == ("runs/small/001", 1.1)
    assert "validation chose the epoch of each run: its numbers flatter all of them" in made["notes"]


def test_without_a_word_test_images_are_taken_where_all_runs_have_them(capsys: pytest.CaptureFixture[str]) -> None:
    write_compared("a/001", test="01", val="011")
    write_compared("b/001", test="11", val="111")
    write_compared("c/001", val="101")
    assert numbers(capsys, "runs/a/001", "runs/b/001")["n"] == {"test": 2}
    assert numbers(capsys, "runs/a/001", "runs/c/001")["n"] == {"val": 3}
    assert numbers(capsys, "runs/a/001", "runs/b/001", "--split", "val")["n"] == {"val": 3}


def test_an_experiment_s_folder_means_all_its_finished_runs(capsys: pytest.CaptureFixture[str]) -> None:
    for number in (10, 2, 1):
        write_compared(f"base/{number:03d}", test="01", seed=number)
    write_compared("base/011", test="11", finished=False)
    write_compared("small/001", test="11", config=SMALLER)
    runs.publish(Run(Path("runs/small/001")))
    made = numbers(capsys, "runs/base", "runs/latest")
    assert [run["name"] for run in made["runs"]] == ["base/001", "base/002", "base/010", "small/001"]
    assert made["notes"][0] == "runs/base: not finished and left out: 011"
    made = numbers(capsys, "runs/base/011", "runs/latest", "runs/small/001")
    assert made["sides"] == ["base/011", "small/001"]
    assert "base/011 is not finished" in made["notes"]


def test_seeds_of_one_configuration_are_averaged(capsys: pytest.CaptureFixture[str]) -> None:
    write_compared("base/001", test="1" * 6 + "0" * 4, seed=1, ece=0.1)
    write_compared("base/002", test="1" * 8 + "0" * 2, seed=2, ece=0.3)
    write_compared("small/001", test="1" * 10, seed=1, config=SMALLER)
    text = said(capsys, "runs/base", "runs/small/001")
    assert (
        "\n base/{001,002}: top-1 70.00 ± 14.14 %, macro F1 0.500 ± 0.000, ECE 0.200 ± 0.141 (mean ± sd of 2 runs)\n"
        in text
    )
    assert "\n base/001 1 60.00 %" in text
    assert "\n small/001 +30.00 – 4 0 p = 0.125\n" in text
    assert "sign-flip test over images, exact" in text
    assert "small/001 against base/{001,002}: the difference of 3 images is within noise (p = 0.125; 4 images" in text
    assert "± is the standard deviation over runs" in text
    assert "independent" not in text


def test_seeds_alone_are_averaged_and_compared_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    write_compared("base/001", test="1100", seed=1)
    write_compared("base/002", test="1110", seed=2)
    write_compared("again/001", test="1110", seed=2)
    made = numbers(capsys, "runs/base", "runs/again")
    assert made["sides"] == ["base/001", "base/002", "again/001"]
    assert [each["averaged"] for each in made["comparisons"]] == [False, False]
    assert made["groups"][0]["name"] == "{base/001,base/002,again/001}"
    assert made["groups"][0]["splits"]["test"]["acc_top1"]["mean"] == pytest.approx(2 / 3)
    assert "all runs have one configuration; they are compared one by one" in made["notes"]
    assert any("no independent repetitions" in note for note in made["notes"])
    assert "configurations: no difference but for seed and name" in said(capsys, "runs/base", "runs/again")


def test_what_a_reader_must_know_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    write_compared("a/001", test="x1x0", classes=("a", "other"))
    write_compared("b/001", test="1111", config=SMALLER, device="NVIDIA T4", classes=("a", "other", "c"), acc_top1=0.5)
    text = said(capsys, "runs/a/001", "runs/b/001")
    assert "note: a/001: 2 of 4 test images have no prediction and count as wrong\n" in text
    assert "note: minutes are of different machines: a/001 on cpu (2 cores); b/001 on NVIDIA T4\n" in text
    assert "note: the runs choose among different classes (a/001 2, b/001 3): fewer are easier\n" in text
    assert "note: b/001: test in metrics.json (50.00 %) is of another pass than the predictions (4 of 4)" in text
    assert "b/001 against a/001: the difference of 3 images is within noise (p = 0.250; 3 images won, 0 lost)" in text


def test_numbers_that_a_run_does_not_have_are_left_open(capsys: pytest.CaptureFixture[str]) -> None:
    nothing: dict[str, Any] = {"f1_macro": None, "f1_macro_interval": None, "ece": None, "worst_class": None}
    write_compared("a/001", test="xx", seed=1, **nothing)
    write_compared("a/002", test="xx", seed=2, **nothing)
    path = write_compared("b/001", test="00", config=SMALLER)
    for name in ("metrics.json", "environment.json", "labels_mapping.json", "timing.csv"):
        (path / name).unlink()
    text = said(capsys, "runs/a", "runs/b/001", "--html", "made.html", "--json", "made.json")
    assert "\n a/001 1 0.00 % 0.00–65.76 % – – – – 1.1\n" in text
    assert "\n a/{001,002}: top-1 0.00 ± 0.00 %, macro F1 –, ECE – (mean ± sd of 2 runs)\n" in text
    assert "\n b/001 42 0.00 % 0.00–65.76 % – – – – –\n" in text
    assert "\n b/001 +0.00 – 0 0 p = 1.000\n" in text
    assert "b/001 and a/{001,002} are right on the very same images\n" in text
    assert "nan" not in Path("made.html").read_text().lower()
    assert json.loads(Path("made.json").read_text())["comparisons"][0]["interval"] is None


@pytest.mark.parametrize(("base", "other"), [("1", "0"), ("1", "1"), ("0000", "1111"), ("0110", "0110")])
def test_one_image_all_equal_and_all_different_can_be_compared(
    base: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_compared("a/001", test=base)
    write_compared("b/001", test=other, config=SMALLER)
    text = said(capsys, "runs/a/001", "runs/b/001", "--html", "made.html")
    assert "noise" in text or "the very same images" in text
    assert "Infinity" not in Path("made.html").read_text()


class Page(HTMLParser):
    """Collects what a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def test_the_page_says_the_same_and_asks_nobody_for_anything(capsys: pytest.CaptureFixture[str]) -> None:
    write_compared("base/001", test="0" * 12 + "1" * 28, val="11")
    write_compared("small/001", test="1" * 39 + "0", val="01", config=SMALLER)
    text = said(capsys, "runs/base/001", "runs/small/001", "--split", "both", "--html", "out/made.html")
    assert "written: out/made.html\n" in text
    page = Page(Path("out/made.html").read_text("utf-8"))
    assert "small/001 is better than base/001 (p = 0.013; 12 images won, 2 lost)" in page.text
    assert {"McNemar", "Newcombe", "97.50", "model.image_size", "flatter"} <= set(re.findall(r"[\w.]+", page.text))
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not [value for name, value in page.attributes if name in ("src", "href", "style") or name.startswith("on")]
    [policy] = [value for name, value in page.attributes if name == "content" and value and "default-src" in value]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert page.tags.count("svg") == 5
    assert all(float(value or "nan") >= 0 for name, value in page.attributes if name in ("x1", "x2", "cx"))


@pytest.mark.parametrize("name", ["predictions/test.csv", "metrics.json", "config.yaml"])
def test_what_a_link_leads_to_outside_of_a_run_is_not_read(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for run in ("a/001", "b/001"):
        write_compared(run, test="01" * 10)
    file = Path("runs/b/001", name)
    file.rename("theirs")
    file.symlink_to(Path("theirs").resolve())
    assert f"runs/b/001/{name} leads out of the run directory; put the file" in refused(
        capsys, "runs/a/001", "runs/b/001"
    )
    (file.parent / "mine").write_bytes(Path("theirs").read_bytes())
    file.unlink()
    file.symlink_to("mine")
    assert "the very same images" in said(capsys, "runs/a/001", "runs/b/001")


def test_nothing_is_injected_by_names(capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").mkdir()
    write_compared("<b>\u202e🏀/001", test="01", label=HOSTILE, config={"model": {HOSTILE: HOSTILE}})
    write_compared("a/001", test="11", label=HOSTILE)
    code = main(["compare", "runs/<b>\u202e🏀/001", "runs/a/001", "--html", "made.html", "--json", "made.json"])
    out = capsys.readouterr().out
    assert code == 0
    assert not {"\x1b", "\u202e"} & set(out)
    assert "<b>\\u202e🏀/001" in out
    html = Path("made.html").read_text("utf-8")
    assert "<script" not in html
    assert "<b>\u202e" not in html
    assert "{{ 7 * 7 }}" in html
    page = Page(html)
    assert HOSTILE in page.text
    assert page.tags.count("style") == 1
    assert json.loads(Path("made.json").read_text("utf-8"))["sides"][0] == "<b>\u202e🏀/001"


def test_what_cannot_be_compared_is_refused_with_a_reason(capsys: pytest.CaptureFixture[str]) -> None:
    write_compared("a/001", test="01", val="0")
    write_compared("b/001", test="011", config=SMALLER)
    write_compared("c/001", test="01", label="b", classes=("a", "b", "other"))
    write_compared("d/001", test="01", classes=("other", "z"))
    write_compared("e/001", finished=False)
    (Path("runs") / "empty").mkdir()
    a = "runs/a/001"
    assert "0 of 2 only in a/001; 1 of 3 only in b/001" in refused(capsys, a, "runs/b/001")
    assert "disagree about the labels of 2 of 2 images" in refused(capsys, a, "runs/c/001")
    assert "d/001 does not know the class 'a', of which images were scored" in refused(capsys, a, "runs/d/001")
    assert "no predictions/test.csv in 'runs/e/001'; `clf test --run runs/e/001` makes it" in refused(
        capsys, a, "runs/e/001"
    )
    assert "no predictions/val.csv in 'runs/b/001'; `clf validate --run runs/b/001`" in refused(
        capsys, a, "runs/b/001", "--split", "both"
    )
    assert "two runs or more, runs/a/001 is one run" in refused(capsys, a)
    assert "two runs or more, runs/a/001 and runs/a are the same run" in refused(capsys, a, "runs/a")
    assert "run='runs/e' has no finished run; name one that was started, e.g. runs/e/001" in refused(
        capsys, a, "runs/e"
    )
    assert "run='runs/a/01' does not exist; did you mean 'runs/a/001'?" in refused(capsys, a, "runs/a/01")
    assert "run='runs/empty' has no config.yaml" in refused(capsys, a, "runs/empty")
    assert "the following arguments are required: RUN; clf compare --help" in refused(capsys)
    assert "unknown argument '--htlm'; did you mean '--html'?" in refused(capsys, a, "runs/c/001", "--htlm")
    assert "invalid choice: 'train'" in refused(capsys, a, "runs/c/001", "--split", "train")
    (Path(a) / "metrics.json").write_text("{")
    assert "runs/a/001/metrics.json cannot be read" in refused(capsys, "runs/c/001", a)


@pytest.mark.parametrize("file", ["", "runs", "runs/a/001/config.yaml/made.html"])
def test_a_file_that_cannot_be_written_is_a_mistake(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_compared("a/001", test="01")
    write_compared("b/001", test="11", config=SMALLER)
    assert main(["compare", "runs/a/001", "runs/b/001", "--html", file]) == 2
    assert f"{file!r} cannot be written" in capsys.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["runs"]


def test_runs_that_were_really_trained_are_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {f"{split}/{name}": 8 if split == "train" else 3 for split in ("train", "valid", "test") for name in "ab"}
    draw_folders(folder / "images", counts)
    Path("tiny.yaml").write_text(
        "model: {arch: test_resnet, pretrained: false, image_size: 32}\n"
        "data: {root: images, batch_size: 4, num_workers: 0}\n"
        "trainer: {accelerator: cpu, max_epochs: 1, num_sanity_val_steps: 0}\n"
    )
    for words in (("--data.augment", "none"), ("--data.augment", "light"), ("--seed_everything", "7")):
        assert main(["fit", "--config", "tiny.yaml", *words]) == 0
    capsys.readouterr()
    made = numbers(capsys, "runs/tiny/001", "runs/tiny/002", "runs/tiny/003")
    assert made["n"] == {"val": 6}
    assert [setting["key"] for setting in made["settings"]] == ["data.augment"]
    assert [run["seed"] for run in made["runs"]] == [42, 42, 7]
    for run in made["runs"]:
        known = json.loads((Path(run["path"]) / "metrics.json").read_text())["val"]
        assert run["splits"]["val"]["acc_top1"] == pytest.approx(known["acc_top1"])
        assert run["splits"]["val"]["worst_class"] == known["worst_class"]
    assert not [note for note in made["notes"] if "another pass" in note]
    assert main(["test", "--run", "runs/tiny/001"]) == 0
    capsys.readouterr()
    assert "`clf test --run runs/tiny/002` makes it" in refused(capsys, "runs/tiny", "--split", "test")
