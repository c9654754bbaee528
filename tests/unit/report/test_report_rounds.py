"""Rounds and back-translations in the report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from seqkd.config.stages import ReportConfig
from seqkd.corpus.manifest import Manifest, write_manifest
from seqkd.errors import ConflictError
from seqkd.report import stage as report
from tests.unit.report.report_folders import (
    MODELS,
    ROWS,
    bleu,
    evaluation,
    full,
    made_by,
    make,
    named,
    write_evaluation,
    write_root,
)

LATER = (
    bleu(evaluation("small.round2", trained_on="seqkd.round2"), 24.0),
    bleu(evaluation("small.round3", trained_on="seqkd.round3"), 22.0),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_root(tmp_path)
    for model, quality in zip(LATER, (22.75, 21.25), strict=True):
        best = dataclasses.replace(model.decodes["5"], bleu=quality)
        model = dataclasses.replace(model, decodes=model.decodes | {"5": best})
        write_evaluation(tmp_path / "evaluations" / model.name, model)
    folder = tmp_path / "backtranslation"
    folder.mkdir()
    pairs = Manifest(
        kind="corpus",
        fingerprint=made_by(folder),
        rows=ROWS // 2,
        source_tokens=150,
        target_tokens=60,
        counts={"empty hypothesis": 3},
        extra={"tag": "<bt>"},
    )
    write_manifest(folder, pairs)
    reverse = tmp_path / "reverse"
    reverse.mkdir()
    write_manifest(reverse, Manifest(kind="model", fingerprint=made_by(reverse), extra={"best_update": 200}))
    history = [{"update": update, "valid_nll": 1.0, "valid_bleu": update / 10} for update in (100, 200, 300)]
    (reverse / "history.json").write_text(json.dumps(history))
    return tmp_path


def config(root: Path) -> ReportConfig:
    names = [model.name for model in (*MODELS, *LATER)]
    return ReportConfig.model_validate(
        full(root).model_dump()
        | {
            "evaluations": named(root, *(f"evaluations/{name}" for name in names)),
            "teachers": ["teacher", "small", "small.round2"],
            "rounds": [{"name": "small", "evaluations": ["small", "small.round2", "small.round3"]}],
            "backtranslation": [
                {"name": "backtranslation", "path": root / "backtranslation", "model": root / "reverse"}
            ],
            "selftraining": [
                {"name": "labelled", "path": root / "backtranslation", "model": root / "reverse"},
                {"name": "asked", "path": root / "backtranslation"},
            ],
            "edges": [("reverse", "k-best backtranslation"), ("k-best backtranslation", "corpus backtranslation")],
        }
    )


def test_models_say_their_round_and_back_translations_what_they_are(root: Path) -> None:
    _, values = make(config(root), root / "out")
    assert {model["name"]: model["round"] for model in values["models"]} == {
        "teacher": None,
        "gold": None,
        "small": 1,
        "small.round2": 2,
        "small.round3": 3,
    }
    assert values["backtranslation"] == [
        {"name": "backtranslation", "rows": ROWS // 2, "ratio": 0.5, "reverse_bleu": 20.0}
    ]
    assert values["selftraining"] == [
        {"name": "labelled", "rows": ROWS // 2, "ratio": 0.5, "bleu": 20.0},
        {"name": "asked", "rows": ROWS // 2, "ratio": 0.5, "bleu": None},
    ]
    assert [corpus["name"] for corpus in values["corpora"]] == ["gold", "seqkd"]  # it shares no rows with these


def test_the_page_has_quality_by_round(root: Path) -> None:
    html, _ = make(config(root), root / "out")
    section = html[html.index("<h2>Rounds</h2>") :]
    section = section[: section.index("</section>")]
    for shown in ("22.75", "+1.25", "\N{MINUS SIGN}0.25", "small.round2", "Quality by round", "&lt;bt&gt;", "20.00"):
        assert shown in section
    table = section[: section.index("</table>")]
    assert table.count("<tr>") == 5  # heads, the first teacher, three rounds
    assert 'class="node model"' in html
    assert "Rounds" not in make(full(root), root / "without")[0]


def test_back_translation_without_rounds_has_its_table(root: Path) -> None:
    html, _ = make(config(root).model_copy(update={"rounds": (), "teachers": ()}), root / "out")
    assert "<h2>Monolingual text</h2>" in html
    assert "Quality by round" not in html


def test_another_reverse_model_makes_another_report(root: Path) -> None:
    make(config(root), root / "out")
    (root / "reverse" / "history.json").write_text(json.dumps([{"update": 200, "valid_bleu": 7.0}]))
    with pytest.raises(ConflictError, match=r"backtranslation.backtranslation"):
        report.run(config(root), root / "out")
