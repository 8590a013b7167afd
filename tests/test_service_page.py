from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from serving import CLASSES, Server, make_export, picture, serving


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "export"
    make_export(folder)
    return folder


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("server"), "--model", str(model)) as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    made = {"photo.png": picture(), "second.jpg": picture(seed=2, suffix="JPEG"), "notes.txt": b"hello"}
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    return {name: tmp_path / name for name in made}


def drop(chromium: Browser, *paths: Path) -> None:
    """Drag files from outside onto the page, and let go."""
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        chromium.devtools("Input.dispatchDragEvent", type=kind, x=200, y=250, data=data)


def results(chromium: Browser, count: int) -> dict[str, str]:
    """Wait until so many images are answered; give name -> what is said about it."""
    answered = '.result:has(.label:not([data-state="waiting"]))'
    until(chromium, f"document.querySelectorAll('{answered}').length === {count}")
    return dict(zip(text(chromium, ".result .name"), text(chromium, ".result .label"), strict=True))


def until(chromium: Browser, condition: str) -> None:
    """Wait until something is so in the page."""
    script = f"""
      const done = arguments[0];
      const look = (left) => {condition} ? done(true) : left ? setTimeout(look, 50, left - 1) : done(false);
      look(400);
    """
    assert chromium.wait(script), f"never: {condition}"


def text(chromium: Browser, selector: str) -> list[str]:
    found: list[str] = chromium.run(
        "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)", selector
    )
    return found


def test_a_dropped_image_gets_its_label_and_bars(chromium: Browser, server: Server, files: dict[str, Path]) -> None:
    chromium.open(server.url)
    drop(chromium, files["photo.png"])
    said = results(chromium, 1)
    assert said["photo.png"] in CLASSES
    bars = text(chromium, ".bars bdi")
    assert sorted(bars) == sorted(CLASSES)
    assert bars[0] == said["photo.png"]
    widths = chromium.run(
        "return [...document.querySelectorAll('.bars .value')].map((each) => Number(each.getAttribute('width')))"
    )
    assert widths == sorted(widths, reverse=True)
    assert sum(widths) == pytest.approx(100, abs=0.01)
    shown = "return [...document.querySelectorAll('.picture img')].every((each) => each.naturalWidth === 60)"
    assert chromium.run(shown), "the image itself is seen beside its label"


def test_an_invalid_file_shows_its_message_and_the_others_their_labels(
    chromium: Browser, server: Server, files: dict[str, Path]
) -> None:
    chromium.open(server.url)
    chromium.type("#files", "\n".join(str(path) for path in files.values()))
    said = results(chromium, 3)
    assert said["notes.txt"].startswith("The image cannot be read: it is none of BMP")
    assert {said["photo.png"], said["second.jpg"]} <= {*CLASSES}
    chromium.click("#clear")
    assert text(chromium, ".result") == []


def test_a_pasted_image_is_classified(chromium: Browser, server: Server) -> None:
    chromium.open(server.url)
    chromium.run(
        """
        const bytes = Uint8Array.from(arguments[0]);
        const data = new DataTransfer();
        data.items.add(new File([bytes], "image.png", { type: "image/png" }));
        dispatchEvent(new ClipboardEvent("paste", { clipboardData: data }));
        """,
        [*picture()],
    )
    assert results(chromium, 1)["image.png"] in CLASSES


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_asks_only_its_own_service_and_has_no_complaints(
    chromium: Browser, server: Server, files: dict[str, Path], width: int, dark: bool
) -> None:
    chromium.open(server.url, width=width, dark=dark)
    chromium.type("#files", str(files["photo.png"]))
    results(chromium, 1)
    assert chromium.complaints() == []
    assert all(url.removeprefix("blob:").startswith(server.url) for url in chromium.requests())
    assert chromium.run("return document.documentElement.scrollWidth <= innerWidth")
    light = chromium.run("return getComputedStyle(document.body).backgroundColor") == "rgb(246, 246, 244)"
    assert light is not dark


def test_the_model_is_described_and_class_names_stay_text(chromium: Browser, server: Server) -> None:
    chromium.open(server.url)
    until(chromium, "!document.querySelector('#model').hidden")
    assert text(chromium, "#classes li") == CLASSES
    assert "tiny/001" in text(chromium, "#facts dd")
    assert "50.0 % of 20 images" in text(chromium, "#facts dd")


def test_the_key_is_asked_for_and_used(chromium: Browser, model: Path, tmp_path: Path, files: dict[str, Path]) -> None:
    with serving(tmp_path / "server", "--model", str(model), api_key="sesame") as running:
        chromium.open(running.url)
        until(chromium, "!document.querySelector('#key').hidden")
        chromium.type("#key-text", "sesame")
        chromium.click("#key button")
        until(chromium, "!document.querySelector('#drop').hidden")
        chromium.type("#files", str(files["photo.png"]))
        assert results(chromium, 1)["photo.png"] in CLASSES


def test_the_api_is_described_without_anything_from_elsewhere(chromium: Browser, server: Server) -> None:
    chromium.open(f"{server.url}/docs")
    until(chromium, "document.querySelector('.endpoint')")
    assert text(chromium, ".endpoint h2") == [
        "GET/health",
        "GET/ready",
        "GET/info",
        "POST/predict",
        "POST/predict/batch",
    ]
    assert chromium.complaints() == []
    assert all(url.startswith(server.url) for url in chromium.requests())
