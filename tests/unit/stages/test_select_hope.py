from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from seqkd.config.stages import SelectConfig
from seqkd.corpus.manifest import read_manifest, write_manifest
from seqkd.corpus.schema import RIVALS
from seqkd.errors import CorpusError
from seqkd.stages.select import select
from seqkd.tools.inspect import inspect
from seqkd.tools.verify import verify
from tests.unit.stages.select_folders import rows_of


def config(folders: Path, rule: str, **values: Any) -> SelectConfig:
    prepared = folders / "prepared"
    paths = {"kbest": folders / "kbest", "gold": prepared / "train", "prepared": prepared}
    return SelectConfig.model_validate({**paths, "rule": rule, **values})


def targets(folders: Path, rule: str, **values: Any) -> list[str]:
    out = folders / f"{rule}-{len(list(folders.iterdir()))}"
    select.run(config(folders, rule, **values), out)
    return [row["target"] for row in rows_of(out)]


def test_hope_and_fear_write_their_hypotheses(folders: Path) -> None:
    assert targets(folders, "hope") == ["one", "two and two", "for"]
    assert targets(folders, "hope", weight=0.125) == targets(folders, "seqkd")
    assert targets(folders, "hope", weight=100.0) == targets(folders, "seqinter")
    assert targets(folders, "fear", weight=2.0) == ["won", "too", "for"]


def test_a_pair_has_the_fear_as_rival_and_the_difference_of_bleu(folders: Path) -> None:
    select.run(config(folders, "pair", weight=2.0, rejected="next"), folders / "out")
    found = [(row["target"], *(row[name] for name in RIVALS)) for row in rows_of(folders / "out")]
    assert found == [
        ("one", "won", [30], pytest.approx(1.0)),
        ("two and two", "too", [31], pytest.approx(1.0)),
        ("three", "three", [23], 0.0),  # its other hypothesis is empty, and filters apply to rivals, too
        ("for", "for", [32], 0.0),
    ]


def test_a_filter_rejects_rivals(folders: Path) -> None:
    select.run(config(folders, "pair", weight=2.0, filters={"min_score": -1.0}), folders / "out")
    rows = {row["id"]: row for row in rows_of(folders / "out")}
    assert [rows[3][name] for name in ("target", *RIVALS)] == ["two and two", "two and two", [21, 22], 0.0]
    assert rows[0]["rival"] == "won"


def test_a_gold_target_is_its_own_rival(folders: Path) -> None:
    select.run(config(folders, "pair", rejected="gold"), folders / "out")
    row = {row["id"]: row for row in rows_of(folders / "out")}[4]
    assert [row[name] for name in ("target", "origin", *RIVALS)] == ["three", "gold", "three", [23], 0.0]


def test_the_summary_says_how_often_the_choice_is_the_best_and_the_oracle(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    select.run(config(folders, "pair", weight=2.0, rejected="next"), folders / "out")
    assert read_manifest(folders / "out").extra["chosen"] == {
        "the best hypothesis": 2,
        "the closest to the reference": 4,
        "equal to their rival": 2,
    }
    assert "50.0% the best hypothesis, 100.0% the closest to the reference" in capsys.readouterr().err


def test_text_without_references_is_refused(folders: Path) -> None:
    gold = folders / "prepared" / "train"
    manifest = read_manifest(gold)
    manifest.extra["monolingual"] = True
    write_manifest(gold, manifest)
    with pytest.raises(CorpusError, match="monolingual text without references, which rule 'hope' reads"):
        select.run(config(folders, "hope"), folders / "out")
    with pytest.raises(ValidationError, match="reads references"):
        config(folders, "hope", reverse=True)
    with pytest.raises(ValidationError, match="one target and its rival"):
        config(folders, "pair", keep=2)


def test_inspect_and_verify_know_pairs(folders: Path) -> None:
    select.run(config(folders, "pair", weight=2.0), folders / "out")
    text = io.StringIO()
    inspect(folders / "out", console=Console(file=text, width=150))
    assert "margins over rivals: mean" in text.getvalue()
    assert "rival_margin" in text.getvalue()
    assert verify(folders / "out").problems == []
