"""The blocks of the documents: which hold commands, which hold files, and which are marked as not run."""

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from yaml import YAMLError

from clf.yamlfile import parse_yaml

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MARK = "# not run by the tests"
LANGUAGES = {"csv", "dockerfile", "html", "http", "ini", "json", "python", "sh", "text", "toml", "yaml"}


@dataclass(frozen=True)
class Block:
    """What stands between two fences.

    Args:
        language: The word behind the opening fence; empty where there is none.
        text: The lines, without the indentation of a list that they stand in.
        line: The line of the opening fence, from 1.
    """

    language: str
    text: str
    line: int

    @property
    def end(self) -> int:
        """The line of the closing fence, from 1."""
        return self.line + self.text.count("\n") + 1

    @property
    def marked(self) -> bool:
        return self.language == "sh" and self.text.startswith(MARK)

    @property
    def file(self) -> str | None:
        """The name of the file that it is, if its first line says one."""
        suffixes = {"python": "py", "yaml": "yaml"}
        named = re.match(rf"# ([\w./-]+\.{suffixes.get(self.language, '$')})$", self.text.partition("\n")[0])
        return named[1] if named else None

    @property
    def commands(self) -> list[str]:
        """Its commands, one a line; what goes on behind a backslash is joined."""
        if self.language != "sh" or self.marked:
            return []
        lines = re.sub(r"\\\n\s*", "", self.text).splitlines()
        return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def blocks(text: str) -> list[Block]:
    """All fenced blocks of a document, from top to bottom."""
    fenced = re.finditer(r"^([ \t]*)```([^\n`]*)\n(.*?)^\1```[ \t]*$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(found[2].strip(), dedent(found[3]), text.count("\n", 0, found.start()) + 1) for found in fenced]


def words(command: str) -> list[str]:
    """Split a command as a shell does; operators stand alone."""
    lexer = shlex.shlex(_without_comment(command), posix=True, punctuation_chars="|&;<>")
    lexer.commenters, lexer.whitespace_split = "", True
    return list(lexer)


def needs_shell(command: str) -> bool:
    """Tell whether a command has more than words in it: pipes, variables, patterns."""
    return bool(re.search(r"[|&;<>$`*?~]", re.sub(r"'[^']*'", "", _without_comment(command))))


def _without_comment(command: str) -> str:
    for found in re.finditer(r"\s+#", command):
        with suppress(ValueError):  # an open quotation: the # stands in it
            shlex.split(command[: found.start()])
            return command[: found.start()]
    return command


def program(command: str) -> str:
    """The program that a command begins with, behind the variables that it sets."""
    return next((word for word in words(command) if not re.match(r"[A-Za-z_]\w*=", word)), "")


def complaints(text: str, programs: set[str]) -> Iterator[str]:
    """What is wrong with the blocks of a document.

    Args:
        text: The document.
        programs: What the tests know how to run.
    """
    found = blocks(text)
    if len(re.findall(r"^[ \t]*```", text, flags=re.MULTILINE)) != 2 * len(found):
        yield "a fence without a partner, or not indented like it"
    for block in found:
        for complaint in _complaints(block, programs):
            yield f"line {block.line}: {complaint}"


def _complaints(block: Block, programs: set[str]) -> Iterator[str]:
    script = block.language == "bash" and block.text.startswith("#!")
    if block.language not in LANGUAGES and not script:
        known = ", ".join(sorted(LANGUAGES))
        yield f"the language {block.language!r}: commands stand in blocks of sh, all else in others ({known})"
    first, *rest = block.text.splitlines() or [""]
    if first.startswith(MARK) and not re.fullmatch(rf"{MARK}: \S.+", first):
        yield f"no reason: write {MARK}: <reason>"
    if any(line.lstrip().startswith(MARK) for line in ([first] if block.language != "sh" else []) + rest):
        yield "the mark stands on the first line of a block of sh"
    if block.language == "yaml":
        try:
            parse_yaml(block.text)
        except YAMLError as error:
            yield f"no YAML: {error}"
    for command in block.commands:
        if program(command) not in programs:
            yield f"the tests cannot run {program(command)!r}: mark the block ({MARK}: <reason>), or teach it to them"
