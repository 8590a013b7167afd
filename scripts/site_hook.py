"""What mkdocs does not do by itself: pages from outside of docs/, links that hold on GitHub and here, the reference."""

import posixpath
import re
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference_pages import Reference

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Documents at the root of the repository -> pages of the site."""

ICON = "clf/service/page/icon.svg"

_LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)")
_MARK = re.compile(r"^<!-- site: (\w+)(.*) -->$", flags=re.MULTILINE)


@cache
def _reference(root: Path) -> Reference:
    return Reference(root)


def on_pre_build(*, config: MkDocsConfig) -> None:
    """Forget what an earlier build of `mkdocs serve` read."""
    _reference.cache_clear()


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere, and the icon."""
    for source, target in {**PAGES, ICON: "icon.svg"}.items():
        files.append(File.generated(config, target, abs_src_path=str(_root(config) / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links round that hold on GitHub, and write the reference where a page asks for it."""
    root, uri = _root(config), page.file.src_uri
    if uri == "index.md":
        page.meta["hide"] = ["navigation"]  # there is nothing beside it
    source = next((name for name, target in PAGES.items() if target == uri), f"docs/{uri}")
    markdown = _LINK.sub(lambda found: _link(found, root=root, source=source, uri=uri), markdown)
    return _MARK.sub(lambda found: _reference(root).make(found[1], found[2].split()), markdown)


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent


def _link(found: re.Match[str], *, root: Path, source: str, uri: str) -> str:
    """Point a link at its page; what the site does not have becomes plain text, and a broken one stays as it is."""
    text, target, anchor = found[1], found[2], found[3] or ""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    if path in PAGES:
        page = PAGES[path]
    elif path.startswith("docs/") and (root / path).is_file():
        page = path.removeprefix("docs/")
    elif path.startswith("configs") and (root / path).exists():
        page, anchor = "reference/configs.md", f"#{path}"
    else:
        return text if (root / path).exists() else found[0]
    return f"[{text}]({posixpath.relpath(page, posixpath.dirname(uri) or '.')}{anchor})"
