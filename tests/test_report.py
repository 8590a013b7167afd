"""The report as text: what a page says of a run, of half a run, and of names that would like to be markup."""

import base64
import itertools
import json
import math
import os
import re
import shlex
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up_runs import NASTY, entry, make_run
from PIL import Image

from clf.main import PLAIN_VERBS, TRAINER_VERBS, main
from clf.report import render, write_report
from clf.runs import Run

VOID = {"meta", "link", "img", "rect", "br"}
INLINE = {"bdi", "code", "style", "script"}


class Page(HTMLParser):
    """Takes a page apart: elements with their attributes, and the text of each section."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.sections: dict[str, str] = {"": ""}
        self.text = ""
        self._section = ""
        self._open: list[str] = []
        self.feed(html)
        assert self._open == [], "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        if tag == "section":
            self._section = found["aria-labelledby"]
            self.sections[self._section] = ""
        if tag not in VOID:
            self._open.append(tag)
        if tag not in INLINE:
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.sections[self._section] += data
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(run: Path) -> Page:
    return Page(render(Run(run)))


def squeeze(text: str) -> str:
    return " ".join(text.replace("\N{NARROW NO-BREAK SPACE}", " ").split())


def test_the_summary_says_the_key_numbers_with_n_and_interval(tmp_path: Path) -> None:
    made = page(make_run(tmp_path))
    head, summary = squeeze(made.sections[""]), squeeze(made.sections["summary"])
    assert "resnet18/003" in head
    assert "Finished after 8 epochs (stopped early)." in head
    assert "training 12.5 minutes" in head
    assert "device cuda (Tesla T4), 16-mixed" in head
    assert "network 11.2 M parameters, 1.82 G MACs, 12.1 ms an image" in head
    assert "Validation 240 images, epoch 6" in summary
    assert "Top-1 accuracy 95.0 % 91.5–97.1 %, n = 240" in summary
    assert "Macro F1 0.937 0.905–0.962, n = 240" in summary
    assert "Worst class 7 60.0 % (23.1–88.2 %), n = 5" in summary
    assert "Worst slice light = dark 50.0 % (9.5–90.5 %), n = 2" in summary
    assert "Test 238 images, best.ckpt" in summary
    assert "Top-1 accuracy 89.9 %" in summary


def test_sections_come_in_the_promised_order(tmp_path: Path) -> None:
    sections = [*page(make_run(tmp_path)).sections][1:]
    assert sections == [
        *("summary", "data", "curves", "confusion", "classes", "calibration", "slices", "mistakes", "samples"),
        *("more", "config", "environment", "commands"),
    ]


def test_classes_have_validation_and_test_side_by_side(tmp_path: Path) -> None:
    text = squeeze(page(make_run(tmp_path)).sections["classes"])
    columns = "n accuracy 95 % interval precision F1"
    assert f"Validation Test class trained on {columns} {columns}" in text
    assert "7 1228 5 60.0 % 23.1–88.2 % 0.750 0.667 4 50.0 % 15.0–85.0 % – –" in text


def test_a_run_without_a_test_has_one_group_of_columns(tmp_path: Path) -> None:
    text = squeeze(page(make_run(tmp_path, test=False)).sections["classes"])
    assert "to sort by it class trained on n accuracy 95 % interval precision F1 0 " in text


def test_the_data_is_told_by_split(tmp_path: Path) -> None:
    text = squeeze(page(make_run(tmp_path)).sections["data"])
    assert "train 1800 51.2 30–61, median 42 – JPEG (1790), PNG (10) val 240 – – – –" in text
    assert "light n 1800 distinct 2 values value dark, n 90 value –, n 1710" in text


@pytest.mark.parametrize("statistics", [{"splits": []}, {"splits": {"train": 3, "val": {"images": 7}}}, {"images": 7}])
def test_statistics_of_another_kind_do_not_break_the_page(tmp_path: Path, statistics: dict[str, Any]) -> None:
    run = make_run(tmp_path)
    (run / "statistics.json").write_text(json.dumps(statistics))
    made = page(run)
    assert "All statistics of the data" in made.sections["data"]
    assert "trained on" not in made.sections["classes"]


def test_calibration_slices_and_confusions_are_told_in_numbers(tmp_path: Path) -> None:
    made = page(make_run(tmp_path))
    assert "Validation 0.087 0.021 1.340 Test 0.087 – –" in squeeze(made.sections["calibration"])
    assert "light dark 2 50.0 % 9.5–90.5 % 3 33.3 % 6.1–79.2 %" in squeeze(made.sections["slices"])
    confusion = squeeze(made.sections["confusion"])
    assert "class taken for images 7 1 2 0 7 1" in confusion
    mistakes = squeeze(made.sections["mistakes"])
    assert "3 of 5 validation images are wrong." in mistakes
    first, second = (mistakes.index(path) for path in ("images/b.jpg", "images/a.jpg"))
    assert first < second, "the most confident mistake comes first"
    assert "images/b.jpg 7 1 97.0 %" in mistakes
    assert "images/right.jpg" not in mistakes


def test_what_differs_from_the_defaults_comes_before_the_whole_configuration(tmp_path: Path) -> None:
    text = squeeze(page(make_run(tmp_path)).sections["config"])
    assert "key value default trainer.max_epochs 8 100 model.loss clf.losses.Focal –" in text
    assert text.index("trainer.max_epochs") < text.index("The whole configuration") < text.index("max_epochs: 8")


@pytest.mark.parametrize("kept", [(), ("metrics.json",), ("plots",), ("environment.json", "metrics.csv")])
def test_half_a_run_has_a_page_that_names_what_is_missing(tmp_path: Path, kept: tuple[str, ...]) -> None:
    run = make_run(tmp_path)
    for path in run.iterdir():
        if path.name not in (*kept, "config.yaml"):
            path.rename(tmp_path / path.name)
    text = squeeze(page(run).text)
    parts = ("environment.json", "metrics.json", "metrics.csv", "predictions", "plots", "checkpoints")
    missing = re.search(r"Not in this directory: (.*?) \w+\.\w+: ", text)
    assert missing is not None
    assert [part for part in parts if part not in missing[1].split(", ")] == [part for part in parts if part in kept]
    assert ("Top-1 accuracy" in text) == ("metrics.json" in kept)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("metrics.json", b"{", "metrics.json: Expecting property name"),
        ("metrics.json", b"[1]", "metrics.json: expected keys and values, found list"),
        ("environment.json", b"\xff\xfe", "environment.json: 'utf-8' codec"),
        ("config.yaml", b"a: [", "config.yaml: while parsing"),
        ("metrics.csv", b"x,y\n1,2\n", "metrics.csv: the column 'epoch' is missing"),
        ("predictions/val.csv", b"a,b\n", "predictions/val.csv: the column 'path' is missing"),
        ("plots/history.png", b"<svg onload=alert(1)>", "plots/history.png: UnidentifiedImageError"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong_and_the_rest_is_shown(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    run = make_run(tmp_path)
    (run / name).write_bytes(content)
    text = squeeze(page(run).text)
    assert f"Could not be read {reason}" in text
    assert "clf test --run" in text


def test_what_links_lead_to_outside_of_the_run_is_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "given")
    for name in ("plots/history.png", "predictions/val.csv", "metrics.json"):
        (run / name).rename(tmp_path / Path(name).name)
        (run / name).symlink_to(tmp_path / Path(name).name)
    (run / "plots/gone.png").symlink_to(tmp_path / "nothing")
    secret = base64.b64encode((tmp_path / "history.png").read_bytes()).decode()
    text = squeeze(page(run).text)
    assert "predictions/val.csv: it leads out of the run directory" in text
    assert "metrics.json: it leads out of the run directory" in text
    assert "Top-1 accuracy" not in text
    assert secret not in render(Run(run))


def test_a_report_takes_the_place_of_a_link_and_leaves_alone_what_that_leads_to(tmp_path: Path) -> None:
    run = make_run(tmp_path / "given")
    theirs = tmp_path / "theirs"
    theirs.write_text("precious")
    (run / "report.html").symlink_to(theirs)
    write_report(Run(run))
    assert theirs.read_text() == "precious"
    assert not (run / "report.html").is_symlink()
    assert (run / "report.html").read_text() == render(Run(run))


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"finished": None, "val": None},
        {"val": {"n": 0, "acc_top1": math.nan, "f1_macro": None, "classes": [], "slices": [], "worst_class": None}},
        {"val": {"acc_top1": "x", "acc_top1_interval": [None, math.inf], "classes": [{"name": "a", "n": 0}, 3]}},
        {"val": 3, "test": {"classes": {"a": 1}, "slices": None, "worst_slice": {"key": "k"}}},
    ],
)
def test_numbers_that_are_none_are_dashes(tmp_path: Path, metrics: dict[str, Any]) -> None:
    run = make_run(tmp_path)
    (run / "metrics.json").write_text(json.dumps(metrics))
    text = squeeze(page(run).text)
    assert not re.search(r"\b(nan|inf|None|null)\b", text.partition("The whole configuration")[0])
    assert metrics == {} or "val" not in metrics or not metrics["val"] or "–" in text


def test_a_run_that_was_interrupted_is_not_called_finished(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "metrics.json").write_text(json.dumps({"finished": None, "val": entry(240)}))
    text = squeeze(page(run).text)
    assert "Not finished" in text
    assert "training 2.0 minutes" in text, "what the epochs took together"
    assert "Go on training clf fit --run" in text


@pytest.mark.parametrize("count", [1, 200])
def test_one_class_and_two_hundred_have_a_row_each(tmp_path: Path, count: int) -> None:
    classes = [f"class {number}" for number in range(count)]
    made = page(make_run(tmp_path, classes=classes))
    assert re.findall(r"class \d+", made.sections["classes"]) == classes


def test_names_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    run = make_run(tmp_path, classes=NASTY)
    html = render(Run(run))
    made = Page(html)
    plain = Page(render(Run(make_run(tmp_path / "plain"))))
    assert [tag for tag, _ in made.elements].count("script") == 1
    assert {tag for tag, _ in made.elements} == {tag for tag, _ in plain.elements}
    assert {key for _, found in made.elements for key in found} == {key for _, found in plain.elements for key in found}
    for name in NASTY:
        shown = name.encode("utf-8", "replace").decode()
        assert made.sections["classes"].count(shown) == 1, name
    assert html.count("<bdi>") >= len(NASTY)


def test_pictures_are_inside_and_each_says_in_numbers_what_it_shows(tmp_path: Path) -> None:
    images = page(make_run(tmp_path)).all("img")
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    said = [image["alt"].translate({0x2068: None, 0x2069: None}) for image in images]
    right = "228 of 240 validation images are right (95.0 %)."
    mistakes = "3 of 5 are wrong; the most confident: 7 taken for 1 with 97 % confidence."
    losses = "Training loss from 2.4 to 1.2. Validation loss from 2.2 to 1.1."
    error = "Expected calibration error 0.087, 0.021 with the temperature."
    matrix = "Confusion matrix with 3 classes, true class by predicted class."
    assert said == [
        "Bars: images per class. 3 classes, 1800 train / 240 val / 238 test images.",
        f"Curves of 2 epochs. {losses} Top-1 from 0.24 to 0.95.",
        f"{matrix} {right} Most frequent confusion: 7 taken for 1, 2 times.",
        f"Reliability diagram of the validation images: accuracy by confidence. {error}",
        f"The validation images that were mistaken with the highest confidence. {mistakes}",
        f"Validation images, each with its class, the prediction and how sure it is. {right}",
        "Picture of this run: my own",
    ]


def test_large_pictures_are_made_smaller_until_the_page_stays_below_5_mb(tmp_path: Path) -> None:
    run = make_run(tmp_path, classes=[str(number) for number in range(42)])
    names = ("history", "confusion_matrix_val", "confusion_matrix_test", "mistakes_val", "mistakes_test", "samples")
    for seed, name in enumerate(names):
        noise = np.random.default_rng(seed).integers(0, 256, (1300, 1300, 3), np.uint8)
        Image.fromarray(noise).save(run / "plots" / f"{name}.png")
    before = (run / "plots" / "classes.png").read_bytes()
    html = render(Run(run))
    assert sum(path.stat().st_size for path in run.glob("plots/*.png")) > 20_000_000
    assert len(html.encode()) < 5_000_000
    sources = [image["src"] for image in Page(html).all("img")]
    assert len(sources) == 9
    assert sum(source.startswith("data:image/webp") for source in sources) == 6
    assert sources[0].startswith("data:image/png"), "a small one is left as it is"
    assert len(sources[0]) < 2 * len(before) + 100


def test_the_page_may_load_nothing_and_runs_only_its_own_script(tmp_path: Path) -> None:
    html = render(Run(make_run(tmp_path)))
    made = Page(html)
    [policy] = [meta["content"] for meta in made.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in policy
    assert re.fullmatch(r"'sha256-[\w+/=]{44}'", rules["script-src"])
    assert not [found for _, found in made.elements if "style" in found or any(key.startswith("on") for key in found)]
    links = [found.get("src", "") + found.get("href", "") for _, found in made.elements]
    assert [link for link in links if link and not link.startswith(("data:", "#"))] == []


def test_headings_tables_and_language_are_what_a_screen_reader_needs(tmp_path: Path) -> None:
    made = page(make_run(tmp_path))
    levels = [int(tag[1]) for tag, _ in made.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert made.all("html") == [{"lang": "en"}]
    assert all(found.get("scope") in ("col", "row", "colgroup") for found in made.all("th"))
    assert len(made.all("caption")) == len(made.all("table")) > 4
    assert all(image["alt"] for image in made.all("img"))
    ids = [found["id"] for _, found in made.elements if "id" in found]
    assert len(ids) == len({*ids})
    assert {link["href"][1:] for link in made.all("a")} <= {*ids}


def test_the_page_depends_on_the_files_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert render(Run(run)) == render(Run(run))


def commands(run: Path) -> list[list[str]]:
    html = render(Run(run))
    found = re.findall(r"<dd><pre[^>]*><code>(.*?)</code>", html.partition('id="commands"')[2])
    return [shlex.split(unescape(command)) for command in found]


def test_the_commands_are_quoted_for_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    resume, test, predict, export, report = commands(make_run(Path(), name="it's a $run; x"))
    run = "runs/it's a $run; x/003"
    assert resume == ["clf", "fit", "--run", run, "--ckpt_path", "last", "--trainer.max_epochs", "16"]
    assert test == ["clf", "test", "--run", run]
    assert predict[:5] == ["clf", "predict", "--run", run, "--data.predict"]
    assert export == ["clf", "export", "--run", run]
    assert report == ["clf", "report", run]


def test_without_a_best_checkpoint_the_commands_take_the_last(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "checkpoints/best.ckpt").unlink()
    assert [words[4:6] for words in commands(run)[1:3]] == [["--ckpt_path", "last"]] * 2


def test_every_verb_that_works_on_a_run_has_its_command(tmp_path: Path) -> None:
    verbs = {words[1] for words in commands(make_run(tmp_path))}
    assert verbs == {"fit", "test", "predict", "report", "export"} & {*TRAINER_VERBS, *PLAIN_VERBS}


# The verb


def test_the_verb_writes_the_latest_run_s_report_or_that_of_a_directory(
    workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(Path())
    other = make_run(Path(), name="other")
    Path("runs/latest").symlink_to("resnet18/003")
    assert main(["report"]) == 0
    assert capsys.readouterr().out == f"{run}/report.html\n"
    assert "resnet18/003" in (run / "report.html").read_text("utf-8")
    assert not (other / "report.html").exists()
    assert main(["report", str(other)]) == 0
    assert "other/003" in (other / "report.html").read_text("utf-8")


def test_a_report_that_cannot_be_written_is_said_in_one_line(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(Path())
    (run / "report.html").unlink(missing_ok=True)
    (run / "report.html").mkdir()
    assert main(["report", str(run)]) == 2
    assert capsys.readouterr().err == f"clf: {run}/report.html cannot be written: Is a directory; make room for it\n"


def test_the_verb_s_mistakes_are_one_line(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert "no run found" in capsys.readouterr().err
    make_run(Path())
    for words, message in (
        (["resnet18/003"], "run='resnet18/003' does not exist; did you mean 'runs/resnet18/003'?"),
        (["runs/resnet18"], "run='runs/resnet18' has no config.yaml; did you mean 'runs/resnet18/003'?"),
        (["--html", "x"], "clf report takes one run directory, got '--html'"),
        (["a", "b"], "clf report takes one run directory, got 'b'"),
    ):
        assert main(["report", *words]) == 2
        assert capsys.readouterr().err == f"clf: {message}\n"


def test_the_verb_needs_no_torch(workdir: Path) -> None:
    run = make_run(Path())
    code = "import sys; from clf.main import main; main(['report', sys.argv[1]]); print(*sys.modules)"
    path = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    loaded = {*done.stdout.split()}
    assert "jinja2" in loaded
    assert not {"torch", "lightning", "timm", "jsonargparse", "matplotlib"} & loaded
