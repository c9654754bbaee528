"""What stages cost, in the report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from seqkd.corpus.cost import Cost, write_cost
from seqkd.report.contents import CostEntry
from seqkd.report.gather import gather
from seqkd.report.tables import cost_table
from tests.unit.report.report_folders import full, make, write_root


def cost(seconds: float, **more: float | str | dict[str, float]) -> Cost:
    plain = Cost(seconds=seconds, cpu_seconds=2 * seconds, begun=1)
    return dataclasses.replace(plain, **more)  # type: ignore[arg-type]


def test_the_report_adds_up_what_was_recorded(tmp_path: Path) -> None:
    root = write_root(tmp_path)
    write_cost(root / "gold", cost(10.0, peak_memory_bytes=300, peak_memory_process="main", joules={"packages": 50.0}))
    write_cost(root / "gold" / "train", cost(9999.0))  # a part of the first
    write_cost(root / "kbest", cost(90.0, begun=3, cut=2, peak_memory_bytes=200, peak_memory_process="worker"))
    page, values = make(full(root), tmp_path / "report")
    assert [(entry["stage"], entry["name"]) for entry in values["cost"]["stages"]] == [
        ("test", "gold"),
        ("test", "kbest"),
    ]
    assert values["cost"]["total"] == {
        "seconds": 100.0,
        "cpu_seconds": 200.0,
        "peak_memory_bytes": 300,
        "peak_memory_process": "main",
        "attempts": {"begun": 4, "cut": 2},
    }
    assert "<h2>Cost</h2>" in page


def test_soft_targets_and_every_model_are_counted_once(tmp_path: Path) -> None:
    root = write_root(tmp_path)
    write_cost(root / "seqkd", cost(1.0))
    config = full(root)
    twice = config.model_copy(update={"soft_targets": config.corpora, "corpora": (*config.corpora, *config.corpora)})
    assert [entry.cost.seconds for entry in gather(twice).costs] == [1.0]


def test_without_any_record_there_is_no_table(tmp_path: Path) -> None:
    page, values = make(full(write_root(tmp_path)), tmp_path / "report")
    assert "cost" not in values
    assert "<h2>Cost</h2>" not in page


def test_the_last_row_has_the_sums() -> None:
    entries = [
        CostEntry(stage="train", name="small", cost=cost(1.5, joules={"gpu": 7.0})),
        CostEntry(stage="distill", name="beam5", cost=cost(2.0, joules={"gpu": 1.0}, uncounted="workers elsewhere")),
    ]
    table = cost_table(entries)
    heads = [head.name for head in table.heads]
    assert heads == ["Stage", "Wall-clock", "CPU", "Energy", "Attempts", "Not counted"]
    assert [cell.text for cell in table.rows[-1]] == ["all", "3.5", "7.0", "8", "2", "workers elsewhere"]
    assert [(row[0].text, row[0].note) for row in table.rows[:2]] == [("train", "small"), ("distill", "beam5")]
