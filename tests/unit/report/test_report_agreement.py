"""Agreement with another model, and the targets that models find hard, in the report."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import sacrebleu

from seqkd.config.stages import ReportConfig
from seqkd.errors import CorpusError
from tests.unit.report.report_folders import MODELS, full, make, named, write_corpus, write_evaluation, write_root

TEACHER = ["a dog runs over the grass", "two men sit on a bench", "the cat sleeps on the mat now"]
OUTPUTS = {
    "gold": ["a dog walks over the grass", "two men sit on a bench", "a cat sleeps there"],
    "small": TEACHER,
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_root(tmp_path)


def with_agreement(root: Path) -> ReportConfig:
    for model in MODELS:
        folder = root / "evaluations" / model.name
        (folder / "result.json").unlink()
        (folder / "manifest.json").unlink()
        folder.rmdir()
        write_evaluation(folder, dataclasses.replace(model, rows=3))
        for beam, texts in (("1", OUTPUTS.get(model.name, ["x"] * 3)), ("5", OUTPUTS.get(model.name, TEACHER))):
            (folder / f"hypotheses.beam{beam}.txt").write_text("".join(f"{text}\n" for text in texts))
    write_corpus(root / "other" / "test", targets=[f"sentence number {row}" for row in range(5)])
    values = full(root).model_dump()
    values["agreement"] = {**named(root, "evaluations/teacher")[0], "corpus": root / "other" / "test"}
    return ReportConfig.model_validate(values)


def test_outputs_are_compared_with_those_of_the_largest_beam(root: Path) -> None:
    html, values = make(with_agreement(root), root / "out")
    teacher, gold, small = values["models"]
    assert values["agreement_with"] == "teacher"
    expected = sacrebleu.corpus_bleu(OUTPUTS["gold"], [TEACHER]).score
    assert [gold["decodes"][beam]["metrics"] for beam in ("1", "5")] == [{"agreement": pytest.approx(expected)}] * 2
    assert small["decodes"]["5"]["metrics"] == {"agreement": pytest.approx(100.0)}
    assert "metrics" not in teacher["decodes"]["1"]
    assert "BLEU to the outputs of teacher" in html
    _, plain = make(full(root), root / "plain")
    assert "agreement_with" not in plain


def test_another_test_text_and_missing_outputs_are_refused(root: Path) -> None:
    config = with_agreement(root)
    write_corpus(root / "third" / "test", targets=["another sentence"] * 5)
    assert config.agreement is not None
    other = config.agreement.model_copy(update={"corpus": root / "third" / "test"})
    with pytest.raises(CorpusError, match="its test text is not that of teacher"):
        make(config.model_copy(update={"agreement": other}), root / "out")
    (root / "evaluations" / "small" / "hypotheses.beam5.txt").unlink()
    with pytest.raises(CorpusError, match="cannot be read"):
        make(config, root / "out")
    assert not (root / "out").exists()


def test_log_probabilities_of_targets_have_a_table(root: Path) -> None:
    for number, name in enumerate(("gold", "small")):
        (model,) = (model for model in MODELS if model.name == name)
        measured = dataclasses.replace(model, target_logprobs={"gold": -2.5, "hope": -1.25 - number}, target_rows=500)
        (root / "evaluations" / name / "result.json").write_text(measured.to_json())
    html, values = make(full(root), root / "out")
    assert [model.get("target_logprobs") for model in values["models"]] == [
        None,
        {"gold": -2.5, "hope": -1.25},
        {"gold": -2.5, "hope": -2.25},
    ]
    assert values["models"][1]["target_rows"] == 500
    table = html[html.index("<h2>Targets</h2>") :].partition("</table>")[0]
    assert all(f">{shown}" in table for shown in ("-2.500", "-1.250", "-2.250"))
    assert "on 500 rows" in html


def test_seeds_have_the_mean_log_probability(root: Path) -> None:
    names = ("gold", "gold.seed2")
    for name, value in zip(names, (-1.0, -2.0), strict=True):
        (model,) = (model for model in MODELS if model.name == "gold")
        folder = root / "evaluations" / name
        measured = dataclasses.replace(model, name=name, target_logprobs={"hope": value}, target_rows=500)
        if folder.exists():
            (folder / "result.json").write_text(measured.to_json())
        else:
            write_evaluation(folder, measured)
    values = full(root).model_dump()
    values["evaluations"] = [*values["evaluations"], *named(root, "evaluations/gold.seed2")]
    values["seeds"] = [{"name": "gold", "evaluations": names}]
    html, found = make(ReportConfig.model_validate(values), root / "out")
    (pooled,) = found["pooled"]
    assert pooled["mean"]["target_logprobs"] == {"hope": -1.5}
    assert pooled["spread"]["target_logprobs"] == {"hope": pytest.approx(0.7071, rel=1e-3)}
    table = html[html.index("<h2>Targets</h2>") :].partition("</table>")[0]
    assert ">-1.500" in table
