"""Models of several seeds in the report: means, standard deviations, and gains that are paired by seed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqkd.config.report import NamedEvaluations, SeedRuns
from seqkd.config.stages import ReportConfig
from seqkd.errors import ConflictError
from seqkd.metrics.results import EvaluationResult
from seqkd.report.pooling import Spread, compute_spread
from tests.unit.report.report_folders import evaluation, full, make, named, write_evaluation, write_root

KD = {"kd": 22.0, "kd.seed2": 23.5, "kd.seed3": 21.25}
GOLD = {"gold": 20.0, "gold.seed2": 20.5}


def scored(name: str, bleu: float, **changes: Any) -> EvaluationResult:
    """BLEU at both beams, one more at the larger one; chrF, perplexity and speed go with it."""
    model = evaluation(name, perplexity=bleu / 4, **changes)
    decodes = {
        beam: dataclasses.replace(found, bleu=bleu + (beam == "5"), chrf=2 * bleu, speedup=bleu / 10)
        for beam, found in model.decodes.items()
    }
    return dataclasses.replace(model, decodes=decodes)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = write_root(tmp_path)
    (root / "evaluations" / "gold").rename(root / "unused")
    models = [scored(name, bleu) for name, bleu in GOLD.items()]
    models += [scored(name, bleu, trained_on="seqkd") for name, bleu in KD.items()]
    for model in models:
        write_evaluation(root / "evaluations" / model.name, model)
        news = dataclasses.replace(scored(model.name, 10 + KD.get(model.name, 0.0)), rows=7)
        write_evaluation(root / "evaluations" / f"{model.name}@news", news)
    for number, name in enumerate(KD):
        points = [{"update": n, "valid_nll": 5.0 / n + number, "valid_bleu": None} for n in range(1, 4 - (number == 2))]
        (root / "models" / name).mkdir(parents=True)
        (root / "models" / name / "history.json").write_text(json.dumps(points))
    return root


def config(root: Path, gold: int = 2, kd: int = 3, **changes: Any) -> ReportConfig:
    golds, kds = list(GOLD)[:gold], list(KD)[:kd]
    names = ["teacher", *golds, *kds]
    values = {
        "models": named(root, *(f"models/{name}" for name in kds)),
        "evaluations": named(root, *(f"evaluations/{name}" for name in names)),
        "baselines": list(zip(kds, golds, strict=False)),
        "seeds": [{"name": runs[0], "evaluations": runs} for runs in (golds, kds) if len(runs) > 1],
    }
    return ReportConfig.model_validate(full(root).model_dump() | values | changes)


# --- formulas -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[1.0, 2.5], [20.1, 22.3, 21.7, 19.9], [3.0, 3.0, 3.0]])
def test_mean_and_sample_standard_deviation_are_those_of_numpy(values: list[float]) -> None:
    found = compute_spread(values)
    assert found.n == len(values)
    assert found.mean == pytest.approx(np.mean(values))
    assert found.deviation == pytest.approx(np.std(values, ddof=1))
    assert compute_spread([2.0]) == Spread(2.0, None, 1)


def test_report_json_pools_every_number_of_a_model(root: Path) -> None:
    _, values = make(config(root), root / "out")
    assert [model["name"] for model in values["models"]] == ["teacher", *GOLD, *KD]
    gold, kd = values["pooled"]
    assert (gold["name"], gold["models"], gold["n"]) == ("gold", list(GOLD), 2)
    assert (kd["name"], kd["models"], kd["n"]) == ("kd", list(KD), 3)
    runs = np.array(list(KD.values()))
    for key, function in (("mean", np.mean), ("spread", lambda values: np.std(values, ddof=1))):
        pooled = kd[key]
        assert pooled["bleu"] == {"1": pytest.approx(function(runs)), "5": pytest.approx(function(runs + 1))}
        assert pooled["chrf"] == pytest.approx(function(2 * runs))
        assert pooled["perplexity"] == pytest.approx(function(runs / 4))
        assert pooled["decodes"]["1"]["speedup"] == pytest.approx(function(runs / 10))
        assert pooled["mode_probability"] == pytest.approx(function([0.1] * 3))
        assert pooled["tests"]["test"]["bleu"] == pooled["bleu"]
        assert "signature" not in pooled
        assert "timings_agreed" not in pooled["decodes"]["1"]
    assert kd["mean"].keys() <= values["models"][0].keys()


def test_gains_are_means_of_the_differences_of_equal_seeds(root: Path) -> None:
    _, values = make(config(root), root / "out")
    gold, kd = values["pooled"]
    differences = [KD["kd"] - GOLD["gold"], KD["kd.seed2"] - GOLD["gold.seed2"]]
    assert kd["baseline"] == "gold"
    assert kd["gain"]["n"] == 2  # the baseline has no third seed
    assert kd["gain"]["mean"]["1"] == pytest.approx(np.mean(differences))
    assert kd["gain"]["spread"]["1"] == pytest.approx(np.std(differences, ddof=1))
    assert (gold["baseline"], gold["gain"]["n"]) == (None, 0)
    entries = {model["name"]: model for model in values["models"]}
    assert entries["kd.seed2"]["gain"] == {"1": differences[1], "5": differences[1]}
    assert (entries["kd.seed3"]["baseline"], entries["kd.seed3"]["gain"]) == (None, {})


def test_a_baseline_of_one_seed_gives_one_pair(root: Path) -> None:
    html, values = make(config(root, gold=1), root / "out")
    (kd,) = values["pooled"]
    assert (kd["gain"]["n"], kd["gain"]["mean"]["1"], kd["gain"]["spread"]["1"]) == (1, 2.0, None)
    assert '+2.00 <span class="note">gold, n = 1</span>' in html


def test_a_student_of_one_seed_is_compared_with_the_first_of_its_baseline(root: Path) -> None:
    html, values = make(config(root, kd=1), root / "out")
    assert values["models"][-1]["gain"]["1"] == 2.0
    assert '+2.00 <span class="note">gold</span>' in html


# --- the page -----------------------------------------------------------------------------------------------------


def test_tables_have_one_row_with_mean_and_spread(root: Path) -> None:
    html, _ = make(config(root), root / "out")
    table = html[html.index("<tbody>") :].partition("</tbody>")[0]
    assert table.count("student, mean of 3 seeds") == 2  # one for each decode
    assert "seed2" not in table
    runs = list(KD.values())
    mean, deviation = np.mean(runs), np.std(runs, ddof=1)
    assert f'{mean:.2f} <span class="note">\N{PLUS-MINUS SIGN} {deviation:.2f}</span>' in table
    differences = [2.0, 3.0]
    note = f"\N{PLUS-MINUS SIGN} {np.std(differences, ddof=1):.2f}, gold, n = 2"
    assert f'+2.50 <span class="note">{note}</span>' in table
    assert "gold was trained with 2 seeds, kd was trained with 3 seeds, and other models once." in html
    assert "there are no error bars" not in html


def test_plots_have_error_bars_and_curves_are_means_where_all_were_validated(root: Path) -> None:
    html, _ = make(config(root), root / "out")
    once = config(root, gold=1, kd=1)
    plain, _ = make(once, root / "plain")
    assert html.count("LineCollection") > plain.count("LineCollection") == 0
    assert "Error bars are the standard deviation over seeds." in html
    assert "Error bars" not in plain


def test_test_sets_are_pooled_too(root: Path) -> None:
    names = [*GOLD, *KD]
    paths = [{"name": name, "path": root / "evaluations" / f"{name}@news"} for name in names]
    news = NamedEvaluations.model_validate({"name": "news", "path": root / "news", "evaluations": paths})
    html, values = make(config(root, tests=[news.model_dump()]), root / "out")
    runs = 10 + np.array(list(KD.values()))
    assert values["pooled"][1]["mean"]["tests"]["news"]["bleu"]["1"] == pytest.approx(np.mean(runs))
    table = html[html.index("<h3>Test sets</h3>") :].partition("</table>")[0]
    assert f"{np.mean(runs) + 1:.2f} <span" in table
    assert "seed2" not in table


def test_without_seeds_nothing_is_pooled(root: Path) -> None:
    html, values = make(config(root, gold=1, kd=1), root / "out")
    assert "pooled" not in values
    assert "\N{PLUS-MINUS SIGN}" not in html
    assert "Each model was trained once, so" in html


def test_a_report_whose_pools_differ_is_another_one(root: Path) -> None:
    make(config(root), root / "out")
    runs = SeedRuns(name="kd", evaluations=("kd", "kd.seed2"))
    changed = config(root).model_copy(update={"seeds": (runs,)})
    with pytest.raises(ConflictError, match=r"config\.seeds"):
        make(changed, root / "out")
