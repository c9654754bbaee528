"""Lines of one fault become one row, with what they counted added up."""

from __future__ import annotations

from pathlib import Path

from tests.torture.table import BEGIN, END, Line, joined, write


def test_lines_of_one_fault_become_a_row(tmp_path: Path) -> None:
    lines = [
        Line("late", "by hand", 1, "well"),
        Line("full", "by a limit", 3, "{told} told", "b", {"told": 2}),
        Line("full", "by a limit", 1000, "{told} told", "a", {"told": 999}),
        Line("full", "by hand", 1, "{told} told", "a", {"told": 1}),
    ]
    rows = joined(lines)
    assert [list(row.values()) for row in rows] == [
        ["full: a, b", "by a limit", 1003, "1,001 told"],
        ["full: a", "by hand", 1, "1 told"],
        ["late", "by hand", 1, "well"],
    ]
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nsuperseded\n{END}\nafter\n")
    write(tmp_path / "page", rows)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| full: a, b | by a limit | 1,003 | 1,001 told |" in text
    assert "superseded" not in text
