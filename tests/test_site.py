"""The documentation site: complete, without a broken link, and made of what the code says today."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from inspect import Parameter, signature
from pathlib import Path
from pkgutil import resolve_name
from threading import Thread
from typing import Any

import pytest
import yaml
from browser import Browser

from clf.classifier import Classifier
from clf.config import CALLBACKS, compose
from clf.data.datamodule import ImageData
from clf.main import PLAIN_VERBS, TRAINER_VERBS
from clf.parser import FOLLOWS

ROOT = Path(__file__).parent.parent
CONFIGS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "configs").rglob("*.yaml"))]
GIVEN = compose([]).config
SOURCES = (
    *("clf", "configs", "docs", "scripts"),
    *("CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md", "mkdocs.yml"),
)


def build(repository: Path, to: Path) -> subprocess.CompletedProcess[str]:
    """Build the site as `make docs` does; with --quiet, mkdocs would not count its warnings."""
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(to)]
    variables = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(repository)}
    return subprocess.run(words, cwd=repository, env=variables, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    said = [line for line in done.stderr.splitlines() if not line.startswith("INFO ")]
    assert (done.returncode, done.stdout, said) == (0, "", [])
    return folder


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Where the site is served, as it will be."""

    class Silent(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(site))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def read(site: Path, page: str) -> str:
    return (site / page / "index.html").read_text("utf-8")


def plain(html: str) -> str:
    """What a page says, without its marks."""
    return unescape(re.sub(r"<[^>]+>", "", html))


def what_is_said_of(key: str, html: str) -> str:
    """The line below the name of a key: its types and its default."""
    found = re.search(rf'<h\d class="key-name" id="{re.escape(key)}".*?<p class="key">(.*?)</p>', html, re.DOTALL)
    assert found is not None, f"{key} is missing"
    return plain(found[1])


def assert_defaults(group: str, subject: Any, given: dict[str, Any], html: str) -> None:
    """Hold what the reference says of the arguments of a class against those that it has."""
    for name, parameter in signature(subject).parameters.items():
        said = what_is_said_of(f"{group}.{name}", html)
        if f"{group}.{name}" in FOLLOWS:
            assert said.endswith(f"follows {FOLLOWS[f'{group}.{name}']} and cannot be given")
        elif parameter.default is Parameter.empty:
            assert said.endswith("must be given")
        else:
            assert yaml.safe_load(said.partition(", default ")[2]) == given.get(name, parameter.default), name


# ------------------------------------------------------------------------------------------------------ what would fail


def test_what_is_wrong_with_the_documents_ends_the_build(tmp_path: Path) -> None:
    copy = tmp_path / "repository"
    for name in SOURCES:
        tree = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(tree, copy / name, ignore=ignored) if tree.is_dir() else shutil.copy(tree, copy / name)
    with (copy / "docs/data.md").open("a") as page:
        page.write("\n[one](nowhere.md) [two](export.md#nowhere) [three](../nowhere.md)\n")
    with (copy / "README.md").open("a") as page:
        page.write("\n[four](docs/nowhere.md)\n")
    (copy / "docs/forgotten.md").write_text("# Forgotten\n")
    losses = (copy / "clf/losses.py").read_text()
    (copy / "clf/losses.py").write_text(losses.replace("        gamma: How fast", "        gama: How fast"))
    with (copy / "docs/reference/model.md").open("a") as page:
        page.write("\n<!-- site: key model -->\n")
    done = build(copy, tmp_path / "site")
    assert done.returncode == 1
    for complaint in (
        "'data.md' contains a link 'nowhere.md'",
        "'data.md' contains a link 'export.md#nowhere'",
        "'data.md' contains a link '../nowhere.md'",
        "'index.md' contains a link 'docs/nowhere.md'",
        'not included in the "nav" configuration:\n  - forgotten.md',
        "clf.losses.Focal.gamma is not documented",
        "there is no <!-- site: key -->",
    ):
        assert complaint in done.stderr, complaint
    assert "Aborted with 7 warnings in strict mode!" in done.stdout + done.stderr  # each by itself would do


# ------------------------------------------------------------------------------------------------------- what is there


def test_the_first_page_is_the_readme_and_its_links_lead_somewhere(site: Path) -> None:
    first = (site / "index.html").read_text("utf-8")
    assert "You write YAML and never Python" in plain(first)
    local = {link for link in re.findall(r'(?:href|src)="([^"#:?]+)', first) if link not in (".", "./")}
    assert {"seeing/", "contributing/", "report.png"} <= local
    assert [link for link in local if not (site / link).exists()] == []


def test_every_module_is_listed_with_its_purpose(site: Path) -> None:
    said = plain(read(site, "architecture"))
    modules = [path.relative_to(ROOT).as_posix() for path in (ROOT / "clf").rglob("*.py")]
    assert [name for name in modules if f"{name}: " not in said] == []
    assert "clf/sums.py: SHA256SUMS beside checkpoints: what each file should hold, as sha256sum -c reads it." in said


@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_config_is_shown_whole(site: Path, name: str) -> None:
    html = read(site, "reference/configs")
    assert f'id="{name}"' in html
    text = (ROOT / name).read_text("utf-8")
    body = text[re.match(r"(#.*\n)*", text).end() :]  # type: ignore[union-attr]  # matches nothing, too
    assert body.strip() in plain(html)
    [first, *_] = text.splitlines()
    assert first.removeprefix("# ").replace("`", "") in plain(html)


@pytest.mark.parametrize(("group", "subject"), [("model", Classifier), ("data", ImageData)])
def test_every_key_is_described_with_its_default(site: Path, group: str, subject: type) -> None:
    assert_defaults(group, subject, GIVEN.get(group, {}), read(site, f"reference/{group}"))


@pytest.mark.parametrize("name", CALLBACKS)
def test_every_callback_is_described_with_its_keys(site: Path, name: str) -> None:
    html, given = read(site, "reference/callbacks"), GIVEN["callbacks"].get(name)
    assert f'id="callbacks.{name}"' in html
    assert f"{CALLBACKS[name]}, {'off' if given is None else 'on'} by default" in plain(html)
    values = {} if given is None else given.get("init_args", given)
    assert_defaults(f"callbacks.{name}", resolve_name(CALLBACKS[name]), values, html)


@pytest.mark.parametrize(
    ("page", "path"),
    [
        *(("model", f"clf.losses.{name}") for name in ("CrossEntropy", "Focal", "BinaryCrossEntropy")),
        *(("model", f"clf.optim.{name}") for name in ("Cosine", "OneCycle")),
        ("model", "clf.mixing.Mixing"),
        *(("data", f"clf.data.samplers.{name}") for name in ("Balanced", "Weighted")),
        ("data", "clf.data.synthetic.SyntheticJerseys"),
        ("data", "clf.data.torchvision.TorchvisionSource"),
        *(("data", f"clf.degradations.{name}") for name in ("JpegCompression", "Pixelate", "GaussianNoise", "ZoomIn")),
    ],
)
def test_every_class_for_a_configuration_is_described(site: Path, page: str, path: str) -> None:
    html = read(site, f"reference/{page}")
    assert f'id="{path}"' in html
    for name in signature(resolve_name(path)).parameters.keys() - {"optimizer"}:
        assert what_is_said_of(f"{path}.{name}", html)


def test_every_verb_is_shown_with_its_help(site: Path) -> None:
    text = plain(read(site, "reference/command_line"))
    assert all(f"  {verb:<14}  {does}" in text for verb, does in {**TRAINER_VERBS, **PLAIN_VERBS}.items())
    assert all(f"usage: clf {verb}" in text for verb in ("predict", "compare", "report", "synth", "serve"))
    assert {"--ckpt_path", "--find_lr", "--output", "--below N", "CLF_API_KEY"} <= {
        word for word in re.split(r"\n|  +| has no flag", text) for word in (word.strip("¶ "),)
    }


def test_types_are_said_in_yaml_s_words(site: Path) -> None:
    model, data = read(site, "reference/model"), read(site, "reference/data")
    for html, key, types in (
        (model, "model.pretrained", "bool or auto"),
        (model, "model.image_size", "int, list of 2 int or null"),
        (model, "model.class_weights", "none, inverse or effective"),
        (model, "model.optimizer", "class_path"),
        (data, "data.train_only", "mapping of str to str or int or float or bool or list of str or"),
        (data, "data.augment", "none, light, standard, ocr, strong or list of class_path"),
    ):
        assert what_is_said_of(key, html).startswith(types), key


# ------------------------------------------------------------------------------------------------------ in the browser


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    loads = re.compile(
        r'<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)="((?:https?:)?//[^"]+)"|url\((http[^)]+)'
    )
    pages = [*site.rglob("*.html"), *site.rglob("*.css")]
    assert len(pages) > 30
    assert {path.name: loads.findall(path.read_text("utf-8")) for path in pages if loads.search(path.read_text())} == {}


@pytest.mark.parametrize(
    ("page", "width", "dark"),
    [("", 1280, False), ("", 390, True), ("reference/python/", 1280, True), ("results/", 390, False)],
)
def test_a_page_is_as_wide_as_its_window_and_asks_nobody_else(
    address: str, chromium: Browser, page: str, width: int, dark: bool
) -> None:
    chromium.open(f"{address}{page}", width=width, dark=dark)
    assert chromium.breadth() == width
    assert [url for url in chromium.requests() if not url.startswith(address)] == []
    assert chromium.complaints() == []


def test_the_search_finds_a_key(address: str, chromium: Browser) -> None:
    chromium.open(address)
    chromium.click(".md-search__input")
    chromium.type(".md-search__input", "layer_decay")
    found = chromium.wait("""
        const done = arguments[0];
        const look = () => {
            const link = document.querySelector(".md-search-result__link[href*='model.layer_decay']");
            link ? done(link.getAttribute("href")) : setTimeout(look, 50);
        };
        look();
    """)
    assert found.split("?")[0].endswith("/reference/model/")
