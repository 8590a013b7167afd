"""A real headless Chromium, driven over WebDriver's plain HTTP protocol."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")

ENTER, SPACE = "\ue007", "\ue00d"

_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # what the W3C calls a reference to an element
_ARGUMENTS = (
    *("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "no-first-run", "hide-scrollbars"),
    *("disable-background-networking", "disable-component-update", "disable-sync", "disable-default-apps"),
)

# Texts looked at, and those whose contrast with what is behind them is below 4.5.
_CONTRASTS = """
const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
  .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
  .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
const behind = (element) => {
  for (let here = element; here; here = here.parentElement) {
    const found = parse(getComputedStyle(here).backgroundColor);
    if (found.length === 3 || found[3] === 1) return found;
  }
  return [255, 255, 255];
};
const low = [];
let looked = 0;
for (const details of document.querySelectorAll("details")) details.open = true;
for (const element of document.querySelectorAll("body *:not(script)")) {
  if (![...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
  const [one, other] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
  looked += 1;
  if ((one + 0.05) / (other + 0.05) < 4.5) low.push(element.outerHTML.slice(0, 80));
}
return [looked, low];
"""

# How far the page reaches in pixels, everything unfolded.
_BREADTH = """
for (const details of document.querySelectorAll("details")) details.open = true;
return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth);
"""


class Browser:
    """One browser with one page.

    Args:
        server: Address of the running chromedriver.
        profile: An empty folder.
    """

    def __init__(self, server: str, profile: Path) -> None:
        self._server = server
        arguments = [*(f"--{word}" for word in _ARGUMENTS), f"--user-data-dir={profile}"]
        capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": CHROMIUM, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        created = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self._session = f"/session/{created['sessionId']}"

    def open(self, page: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Show a file or an address; what an earlier page said and asked for is forgotten."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        self._log("browser")
        self._log("performance")
        self._post("/url", {"url": page if isinstance(page, str) else page.absolute().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a function body in the page; give its result."""
        return self._post("/execute/sync", {"script": script, "args": list(arguments)})

    def contrasts(self) -> tuple[int, list[str]]:
        """Count the texts of the page, and name those that are hard to read: a contrast below 4.5."""
        looked, low = self.run(_CONTRASTS)
        return looked, low

    def breadth(self) -> int:
        """Unfold everything, and say how far the page reaches, in pixels."""
        return int(self.run(_BREADTH))

    def wait(self, script: str, *arguments: Any) -> Any:
        """Run a function body that calls its last argument when it is done; give what it says there."""
        return self._post("/execute/async", {"script": script, "args": list(arguments)})

    def click(self, selector: str) -> None:
        """Click the first element that a CSS selector finds."""
        self._post(f"/element/{self._find(selector)}/click", {})

    def type(self, selector: str, keys: str) -> None:
        """Send keys to the first element that a CSS selector finds."""
        self._post(f"/element/{self._find(selector)}/value", {"text": keys})

    def press(self, key: str) -> None:
        """Press a key, wherever the focus is."""
        actions = [{"type": kind, "value": key} for kind in ("keyDown", "keyUp")]
        self._post("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def complaints(self) -> list[str]:
        """Take what the console says: errors, refusals of the content policy, failed requests."""
        return [entry["message"] for entry in self._log("browser")]

    def requests(self) -> list[str]:
        """Take the addresses that the page asked for, but for those of what it holds itself."""
        events = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        sent = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]

    def picture(self, path: Path) -> None:
        """Save the whole page as a PNG."""
        shot = self.devtools("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def close(self) -> None:
        """End the browser."""
        self._ask("DELETE", self._session)

    def _find(self, selector: str) -> str:
        found: str = self._post("/element", {"using": "css selector", "value": selector})[_ELEMENT]
        return found

    def _log(self, kind: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self._post("/se/log", {"type": kind})
        return entries

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        return self._ask("POST", f"{self._session}{path}", body)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self._server}{path}", data, {"Content-Type": "application/json"}, method=method)
        with urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Start a browser, and end it.

    Args:
        profile: An empty folder for what it keeps.
    """
    assert CHROMEDRIVER is not None
    command = [CHROMEDRIVER, "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        try:
            assert driver.stdout is not None
            ports = (re.search(r"started successfully on port (\d+)", line) for line in driver.stdout)
            port = next(found[1] for found in ports if found)
            opened = Browser(f"http://127.0.0.1:{port}", profile)
            try:
                yield opened
            finally:
                opened.close()
        finally:
            driver.terminate()
