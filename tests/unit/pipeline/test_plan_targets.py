"""`evaluate.targets` and `evaluate.agreement` in a pipeline file."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqkd.config.stages import EvaluateConfig, ReportConfig
from seqkd.errors import ConfigError
from seqkd.pipeline.folders import Stage
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from tests.unit.pipeline.pipeline_files import edited

RUN = Path("runs/small")


def planned(pipeline: Path) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}


def test_targets_and_agreement_change_the_evaluations_and_the_report_alone(pipeline: Path) -> None:
    before = planned(pipeline)
    edited(
        pipeline, "[data]", '[evaluate]\ntargets = ["gold", "kd"]\ntarget_rows = 50\nagreement = "teacher"\n\n[data]'
    )
    after = planned(pipeline)
    assert {name for name in after if after[name] != before[name]} == {
        *(f"evaluate.{name}" for name in ("teacher", "gold", "kd", "tuned")),
        "report",
    }
    for name in ("teacher", "tuned"):
        stage = after[f"evaluate.{name}"]
        assert isinstance(stage.config, EvaluateConfig)
        assert [(part.name, part.path) for part in stage.config.targets] == [
            ("gold", RUN / "gold/train"),
            ("kd", RUN / "corpora/kd"),
        ]
        assert stage.config.target_rows == 50
        assert {RUN / "gold/manifest.json", RUN / "corpora/kd/manifest.json"} <= set(stage.needs)
    report = after["report"].config
    assert isinstance(report, ReportConfig)
    assert report.agreement is not None
    assert (report.agreement.name, report.agreement.path) == ("teacher", RUN / "evaluations/teacher")
    assert report.agreement.corpus == RUN / "gold/test"


def test_rounds_measure_the_targets_of_the_first(pipeline: Path) -> None:
    edited(pipeline, "[data]", 'rounds = 2\nnext_teacher = "kd"\n\n[data]')
    before = planned(pipeline)
    edited(pipeline, "[data]", '[evaluate]\ntargets = ["kd"]\n\n[data]')
    after = planned(pipeline)
    assert after.keys() == before.keys()
    stage = after["evaluate.kd.round2"].config
    assert isinstance(stage, EvaluateConfig)
    assert [part.path for part in stage.targets] == [RUN / "corpora/kd"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('targets = ["tuned"]', r"evaluate\.targets: no \[\[select\]\] is named 'tuned', which is a"),
        ('agreement = "beam5"', r"evaluate\.agreement: no \[\[teachers\]\] is named 'beam5'"),
    ],
)
def test_unknown_names_are_refused(pipeline: Path, line: str, message: str) -> None:
    edited(pipeline, "[data]", f"[evaluate]\n{line}\n\n[data]")
    with pytest.raises(ConfigError, match=message):
        read_pipeline(pipeline)
