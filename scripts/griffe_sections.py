"""Docstrings as griffe wants them: sections after an empty line, which ours leave out, and examples in a fence."""

import re
from typing import Any

import griffe

_TITLE = re.compile(r"(?<!\n)\n(?=(?:Args|Attributes|Raises|Returns|Source|Yields):)")
_EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", flags=re.MULTILINE)
_FLAG = re.compile(r" *# doctest: .*")


class Sections(griffe.Extension):
    """Sets the docstrings of our own code as griffe and Markdown read them."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Look at one module, class, function or attribute."""
        if obj.docstring is not None:
            text = _TITLE.sub("\n\n", obj.docstring.value)
            obj.docstring.value = _EXAMPLE.sub(lambda found: f"```pycon\n{_FLAG.sub('', found[0])}\n```", text)
