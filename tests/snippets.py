"""The snippets, by their language, and the links of the README, CONTRIBUTING.md and the pages under docs/ and data/.

A snippet is an indented or fenced block. The comment `<!-- not run: REASON -->` directly above it says why it cannot
run in a test.
"""

from __future__ import annotations

import ast
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data/README.md", *sorted(ROOT.glob("docs/**/*.md")))
LINKING = (*PAGES, ROOT / "CHANGELOG.md")

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_EXCERPT = re.compile(r"From\s`([\w./]+)`:(\s*<!--.*-->)?$")
_COMMAND = re.compile(r"\bseqkd (?=[a-z])([^|;&`]*)")
_FENCE = re.compile(r"(```+|~~~+)\s*(\w*)")
_LANGUAGES = {"bash": "shell", "console": "shell", "sh": "shell", "py": "python"}
_EXEMPTION = re.compile(r"<!-- not run:\s*(.*?)\s*-->")
_SHELL = re.compile(
    r"^\s*(#!|for \w+ in .*;|\w+=\$|(\.venv/bin/|\./)?"
    r"(seqkd|make|python3?|pip|pytest|pre-commit|torchrun|ray|git|sbatch|srun|fairseq-\w+|\w*cat|cut|cd|cp|mv|rm)(\s|$))",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A snippet of a page.

    Attributes:
        place: Its page and its first line.
        text: Its lines without their common indentation.
        language: `shell`, `python`, `toml`, or `text` for anything else (drawings, messages, listings).
        exemption: Why it cannot run in a test; None if it can.
    """

    place: str
    text: str
    language: str
    exemption: str | None = None

    @property
    def runs(self) -> bool:
        """Whether a test runs it."""
        return self.language in ("shell", "python") and self.exemption is None


def blocks() -> list[Block]:
    """The snippets of all pages."""
    return [
        block
        for page in PAGES
        for block in blocks_of(page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix())
    ]


def blocks_of(text: str, name: str) -> list[Block]:
    """The snippets of a page. A blank line does not end an indented one."""
    lines = text.split("\n")
    found: list[Block] = []
    number, above = 0, ""  # `above` is the last line before the snippet that is not blank
    while number < len(lines):
        line, start = lines[number], number
        if fence := _FENCE.match(line):
            number += 1
            while number < len(lines) and not lines[number].startswith(fence[1]):
                number += 1
            inside, first, named = lines[start + 1 : number], start + 1, fence[2].lower()
            number += 1
        elif line.startswith("    ") and line.strip() and (start == 0 or _ends_paragraph(lines[start - 1])):
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
            inside, first, named = lines[start:number], start, ""
        else:
            above = line if line.strip() else above
            number += 1
            continue
        snippet = textwrap.dedent("\n".join(inside)).strip("\n")
        if snippet.strip():
            reason = _EXEMPTION.fullmatch(above.strip())
            language = _LANGUAGES.get(named, named) or language_of(snippet)
            found.append(Block(f"{name}:{first + 1}", snippet, language, reason[1] if reason else None))
        above = ""
    return found


def _ends_paragraph(line: str) -> bool:
    """Whether an indented line after this one begins a snippet and does not continue a paragraph."""
    return not line.strip() or line.startswith(("<!--", "#"))


def language_of(text: str) -> str:
    """The language of a snippet that does not name it."""
    if _SHELL.search(text):
        return "shell"
    try:
        read_toml(text)
        return "toml"
    except ValueError:
        pass
    try:
        ast.parse(text)
        return "python"
    except SyntaxError:
        return "text"


def read_toml(text: str) -> dict[str, Any]:
    """The values of a snippet of TOML; ValueError if it is none."""
    return tomllib.loads(text)


def exemptions() -> Iterator[tuple[str, str]]:
    """Place and reason of each exemption, whether a snippet follows it or not."""
    for page in PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), 1):
            if reason := _EXEMPTION.fullmatch(line.strip()):
                yield f"{page.relative_to(ROOT).as_posix()}:{number}", reason[1]


def commands() -> Iterator[tuple[str, str]]:
    """Place and words after `seqkd` of each command in a block; a line that ends with a backslash goes on."""
    for block in blocks():
        if block.language == "python":
            continue
        for line in block.text.replace("\\\n", " ").split("\n"):
            code = re.sub(r"(^|\s)#.*", "", line)
            for match in _COMMAND.finditer(code):
                words = re.sub(r"<\(.*?\)", "FILE", match.group(1))  # a process in place of a file
                yield block.place, re.sub(r"\s[<>].*", "", words).strip(" \"'")


def mentions() -> Iterator[tuple[str, str]]:
    """Place and words after `seqkd` of each command that the prose names in a code span."""
    for page in PAGES:
        for number, line in enumerate(page.read_text(encoding="utf-8").split("\n"), 1):
            for span in re.findall(r"`seqkd ([a-z][^`]*)`", line):
                yield f"{page.name}:{number}", span


def makes() -> Iterator[tuple[str, str]]:
    """Place and words after `make` of each call of Make in a block."""
    for block in blocks():
        for line in block.text.split("\n"):
            if match := re.match(r"make (.*)", re.sub(r"\s#.*", "", line)):
                yield block.place, match.group(1)


def links() -> Iterator[tuple[Path, str]]:
    """Page and target of each link that leads to a file of the repository, or to a heading."""
    for page in LINKING:
        for line in page.read_text(encoding="utf-8").split("\n"):
            for target in () if line.startswith("    ") else _LINK.findall(line):
                if not re.match(r"[a-z]+:", target):
                    yield page, target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    lines = page.read_text(encoding="utf-8").split("\n")
    titles = [re.sub(r"^#+ ", "", line) for line in lines if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def excerpts() -> Iterator[tuple[str, str, str]]:
    """Place, file and text of each part of a block that its page says is an excerpt of a file."""
    for block in blocks():
        name, number = block.place.split(":")
        lines = (ROOT / name).read_text(encoding="utf-8").split("\n")
        before = "\n".join(lines[: int(number) - 1]).removesuffix("```python").rstrip()
        if match := _EXCERPT.search(before):
            for part in block.text.split("\n...\n"):
                yield block.place, match[1], part
