"""Teachers of other toolkits and exports in a pipeline file: the stages that they add, and problems."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqkd.config.formats import ExportConfig, ExportFormat, ImportConfig
from seqkd.config.stages import DistillConfig, EvaluateConfig, PrepareConfig, ReportConfig
from seqkd.pipeline.folders import Stage
from seqkd.pipeline.make import write_plan
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from tests.unit.pipeline.pipeline_files import edited
from tests.unit.pipeline.test_pipeline import problems

RUN = Path("runs/small")
EXPORTS = """
[[exports]]
name = "served"
model = "kd"
format = "fairseq"

[[exports]]
name = "first"
model = "teacher"
format = { type = "fairseq" }
"""
FAIRSEQ = '{ type = "fairseq", dictionary = "dict.txt" }'


def planned(pipeline: Path) -> dict[str, Stage]:
    return {stage.name: stage for stage in plan_stages(read_pipeline(pipeline), Path("runs"))}


def add(pipeline: Path, text: str) -> None:
    with pipeline.open("a") as file:
        file.write(text)


def bring(pipeline: Path, table: str, *, vocabulary: bool = True) -> None:
    """Replace the teacher of a pipeline by one that is brought along."""
    own = "[prepare.vocabulary]\nsize = 300\n\n" if vocabulary else ""
    edited(pipeline, "[teacher.training]\nmax_updates = 10\n", f"{own}[teacher]\n{table}\n")


# --- exports ------------------------------------------------------------------------------------------------------


def test_an_export_is_a_stage_that_no_other_stage_needs(pipeline: Path) -> None:
    before = planned(pipeline)
    add(pipeline, EXPORTS)
    after = planned(pipeline)
    assert after.keys() - before.keys() == {"export.served", "export.first"}
    assert {name: after[name] for name in before if name != "report"} == {
        name: stage for name, stage in before.items() if name != "report"
    }
    served = after["export.served"]
    assert served.config == ExportConfig(model=RUN / "students/kd", format=ExportFormat.model_validate("fairseq"))
    assert (served.out, served.goal, served.words) == (RUN / "exports/served", "exports", ("export",))
    assert served.needs == (RUN / "students/kd/manifest.json",)
    report = after["report"]
    assert report.needs == before["report"].needs
    assert isinstance(report.config, ReportConfig)
    assert {("student kd", "export served"), ("teacher", "export first")} <= set(report.config.edges)
    plan = write_plan(pipeline, "runs").read_text()
    assert "\nexports: $(RUN)/exports/served/manifest.json $(RUN)/exports/first/manifest.json\n" in plan
    assert 'type = "fairseq"' in (RUN / "config/export.served.toml").read_text()


def test_each_round_exports_its_students_and_no_new_teacher(pipeline: Path) -> None:
    add(pipeline, EXPORTS)
    edited(pipeline, "seed = 3", 'seed = 3\nrounds = 2\nnext_teacher = "kd"')
    exports = {name: stage.config for name, stage in planned(pipeline).items() if stage.kind == "export"}
    assert exports.keys() == {"export.served", "export.first", "export.served.round2"}
    again = exports["export.served.round2"]
    assert isinstance(again, ExportConfig)
    assert again.model == RUN / "students/kd.round2"


def test_problems_of_exports_are_reported_with_their_places(pipeline: Path) -> None:
    add(pipeline, EXPORTS.replace('model = "kd"', 'model = "none"').replace('"fairseq" }', '"fairseq", bits = 8 }'))
    found = problems(pipeline)
    assert any(line.startswith("exports.first.format.bits: ") for line in found)
    assert "exports.served.model: no [[students]] is named 'none'; there is teacher, gold, kd, tuned" in found
    edited(pipeline, 'format = "fairseq"', 'format = "onnx"')
    assert any(
        line.startswith("exports.served.format: ") and "unknown format 'onnx'" in line for line in problems(pipeline)
    )


def test_a_source_of_lists_and_a_corpus_cannot_be_exported(pipeline: Path) -> None:
    asked = '[teacher]\nsource = { type = "huggingface", path = "m" }\n'
    edited(pipeline, "[teacher.training]\nmax_updates = 10\n", asked)
    add(pipeline, EXPORTS)
    wanted = "exports.first.model: 'teacher' is a source of k-best lists"
    assert any(line.startswith(wanted) for line in problems(pipeline))
    edited(pipeline, 'format = "fairseq"', 'format = "text"')
    (line,) = [line for line in problems(pipeline) if line.startswith("exports.served.format: ")]
    assert "seqkd cannot export models in the format 'text', expected one of: fairseq, huggingface" in line


# --- teachers -----------------------------------------------------------------------------------------------------


def test_a_teacher_of_another_toolkit_is_imported(pipeline: Path) -> None:
    Path("theirs").mkdir()
    Path("theirs/model.pt").write_text("x")
    bring(pipeline, f'path = "theirs"\nformat = {FAIRSEQ}')
    stages = planned(pipeline)
    teacher, prepare = stages["teacher"], stages["prepare"].config
    assert isinstance(teacher.config, ImportConfig)
    assert (teacher.config.path, teacher.config.format.type) == (Path("theirs"), "fairseq")
    assert teacher.config.format.settings.dictionary == Path("dict.txt")
    assert (teacher.out, teacher.goal, teacher.words) == (RUN / "teacher", "teacher", ("import",))
    assert teacher.needs == (Path("theirs/model.pt"),)
    assert isinstance(prepare, PrepareConfig)
    assert prepare.vocabulary_from is None
    lists, evaluation = stages["distill.beam5"], stages["evaluate.teacher"].config
    assert isinstance(lists.config, DistillConfig)
    assert (lists.config.models, lists.config.prepared) == ((RUN / "teacher",), RUN / "gold")
    assert RUN / "teacher/manifest.json" in lists.needs
    assert isinstance(evaluation, EvaluateConfig)
    assert evaluation.corpus == RUN / "tests/test@@teacher"  # in the teacher's own pieces


def test_without_a_vocabulary_of_the_pipeline_the_corpora_wait_for_that_of_the_teacher(pipeline: Path) -> None:
    bring(pipeline, f'path = "theirs"\nformat = {FAIRSEQ}', vocabulary=False)
    stages = planned(pipeline)
    prepare = stages["prepare"]
    assert isinstance(prepare.config, PrepareConfig)
    assert prepare.config.vocabulary_from == RUN / "teacher"
    assert RUN / "teacher/manifest.json" in prepare.needs
    assert list(stages)[:2] == ["teacher", "prepare"]


def test_a_script_can_write_the_teacher(pipeline: Path) -> None:
    Path("make.py").write_text("")
    bring(pipeline, f'path = "model"\nformat = {FAIRSEQ}\nfetch = {{ script = "make.py", args = ["--small"] }}')
    stages = planned(pipeline)
    fetch, teacher = stages["fetch.teacher"], stages["teacher"]
    needs = (Path("make.py"), Path("a.src"), Path("a.tgt"))
    assert (fetch.out, fetch.goal, fetch.needs) == (RUN / "fetched/teacher", "teacher", needs)
    assert isinstance(teacher.config, ImportConfig)
    assert teacher.config.path == RUN / "fetched/teacher/model"
    assert teacher.needs == (RUN / "fetched/teacher/.done",)
    plan = write_plan(pipeline, "runs").read_text()
    assert "$(SEQKD_PYTHON) make.py --out $(RUN)/fetched/teacher --text a.src a.tgt --small\n" in plan
    edited(pipeline, "[data]\n", '[data]\nfetch = { script = "make.py" }\n')
    plan = write_plan(pipeline, "runs").read_text()
    assert "--out $(RUN)/fetched/teacher --text $(RUN)/raw/a.src $(RUN)/raw/a.tgt --small\n" in plan
    assert planned(pipeline)["fetch.teacher"].needs == (Path("make.py"), RUN / "raw/.done")
    edited(pipeline, '"make.py", args', '"none.py", args')
    assert any(line.startswith("teacher.fetch.script: no such file in ") for line in problems(pipeline))


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (f"format = {FAIRSEQ}\ntraining = {{ max_updates = 1 }}", "format: is only for a teacher with `path`"),
        ('path = "m"\nfetch = { script = "small.toml" }', "fetch: is only for a teacher with `format`"),
        ('path = "m"\nformat = "onnx"', "unknown format 'onnx'"),
    ],
)
def test_tables_of_teachers_that_contradict_themselves(pipeline: Path, table: str, problem: str) -> None:
    bring(pipeline, table)
    assert any(problem in line for line in problems(pipeline))
