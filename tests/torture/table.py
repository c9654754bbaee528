"""The table of docs/reliability.md: what tests have recorded, written when all of them have passed."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

REPORT = Path(__file__).parents[2] / "docs" / "reliability"
BEGIN, END = "<!-- begin: written by make torture -->", "<!-- end -->"
PROPERTY = "torture"  # of a test's report


@dataclass(frozen=True, slots=True)
class Line:
    """What one test has seen; lines of one fault, injection and outcome become one.

    Attributes:
        fault: What went wrong.
        injected: How it was brought about.
        times: How often it was.
        outcome: What came of it; `{name}` stands for a count.
        of: The stage or kind of file that it happened to, where the fault happens to several.
        counts: What is added up over the lines that become one.
    """

    fault: str
    injected: str
    times: int
    outcome: str
    of: str = ""
    counts: dict[str, int] = field(default_factory=dict)


class Record(Protocol):
    """Gives the table a line; see `Line`."""

    def __call__(
        self, fault: str, injected: str, times: int, outcome: str, *, of: str = "", counts: dict[str, int] | None = None
    ) -> None: ...


class Table:
    """Gathers the lines of all tests; with pytest-xdist in the process that the others report to."""

    def __init__(self) -> None:
        self.lines: list[Line] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.lines += [Line(**json.loads(str(value))) for name, value in report.user_properties if name == PROPERTY]

    @pytest.hookimpl(wrapper=True)
    def pytest_sessionfinish(self, exitstatus: int) -> Iterator[None]:
        yield
        if exitstatus == 0 and self.lines:
            write(REPORT, joined(self.lines))


def joined(lines: Sequence[Line]) -> list[dict[str, str | int]]:
    """The table's rows, in the order of their faults."""
    groups: dict[tuple[str, str, str], list[Line]] = {}
    for line in lines:
        groups.setdefault((line.fault, line.injected, line.outcome), []).append(line)
    rows: list[dict[str, str | int]] = []
    for (fault, injected, outcome), group in sorted(groups.items()):
        parts = sorted({line.of for line in group} - {""})
        names = dict.fromkeys(name for line in group for name in line.counts)
        counts = {name: f"{sum(line.counts.get(name, 0) for line in group):,}" for name in names}
        rows.append(
            {
                "fault": f"{fault}: {', '.join(parts)}" if parts else fault,
                "injected": injected,
                "times": sum(line.times for line in group),
                "outcome": outcome.format(**counts),
            }
        )
    return rows


def as_property(line: Line) -> tuple[str, str]:
    """What goes into a test's report."""
    return PROPERTY, json.dumps(asdict(line))


def write(report: Path, rows: Sequence[dict[str, str | int]]) -> None:
    """Put the rows between the marks of `report`.md, and into `report`.json."""
    data = {"machine": f"Python {platform.python_version()}, {os.cpu_count()} cores", "faults": rows}
    report.with_suffix(".json").write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    lines = [f"| {row['fault']} | {row['injected']} | {row['times']:,} | {row['outcome']} |" for row in rows]
    table = "\n".join(
        [BEGIN, "", "| fault | how it is injected | times | outcome |", "|---|---|---|---|", *lines, "", END]
    )
    page = report.with_suffix(".md")
    text = page.read_text()
    page.write_text(text.split(BEGIN)[0] + table + text.split(END)[1])
