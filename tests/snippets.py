"""The indented blocks and the links of the README, of CONTRIBUTING and of docs/*.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LINKING = (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs" / "decisions").glob("*.md")))

_COMMAND = re.compile(r"\bseqkd (?=[a-z])([^|;&`]*)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_EXCERPT = re.compile(r"From\s`([\w./]+)`:$")


@dataclass(frozen=True)
class Block:
    """An indented block of a page."""

    place: str
    text: str

    @property
    def is_python(self) -> bool:
        """Whether it is a program: it opens with an import."""
        return self.text.startswith(("import ", "from "))


def blocks() -> list[Block]:
    """All of them, without their indentation; a blank line does not end one."""
    found = []
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").split("\n")
        number = 0
        while number < len(lines):
            start = number
            while number < len(lines) and (lines[number].startswith("    ") or not lines[number].strip()):
                number += 1
            text = "\n".join(line[4:] for line in lines[start:number]).strip("\n")
            if text.strip():
                found.append(Block(f"{page.name}:{start + 1}", text))
            number += 1
    return found


def commands() -> Iterator[tuple[str, str]]:
    """Place and words after `seqkd` of each command in a block; a line that ends with a backslash goes on."""
    for block in blocks():
        if block.is_python:
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
        page = next(page for page in PAGES if page.name == name)
        before = "\n".join(page.read_text(encoding="utf-8").split("\n")[: int(number)]).rstrip()
        if match := _EXCERPT.search(before):
            for part in block.text.split("\n...\n"):
                yield block.place, match.group(1), part
