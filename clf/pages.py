"""Pages that need nothing but themselves: no network, and nothing runs in them but what they were written with."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = Path(__file__).parent / "templates"


def render_page(name: str, *, script: str = "", filters: Mapping[str, Callable[..., str]], **content: Any) -> str:
    """Fill in a template; whatever stands in `content` is text and becomes no markup.

    Args:
        name: The template ``<name>.html``, which also gets `style` (the colours of all pages and ``<name>.css``),
            `script`, and the names of both for its content security policy, `style_hash` and `script_hash`.
        script: A file of scripts; empty for a page without.
        filters: How the template writes numbers.
        content: What the template speaks of.
    Returns:
        The HTML.
    """
    environment = _environment(name)
    environment.filters |= filters
    style = _read("colours.css") + _read(f"{name}.css")
    code = _read(script) if script else ""
    hashes = {"style_hash": _hash(style), "script_hash": _hash(code)}
    return environment.get_template(f"{name}.html").render(style=style, script=code, **hashes, **content)


@cache
def _environment(name: str) -> "Environment":
    """Keep a template once it is compiled: a command may fill it in more than once."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # here: a comparison in a terminal needs no page

    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text("utf-8")


def _hash(text: str) -> str:
    """Name a text as a content security policy does."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"
