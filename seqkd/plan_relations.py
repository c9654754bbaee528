"""How the parts of a pipeline belong together, for its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seqkd.config_models import SUITED, WordKdConfig, tag
from seqkd.config_pipeline import PipelineConfig, StudentPart


def baselines(students: Sequence[StudentPart]) -> Iterator[tuple[str, str]]:
    """For each student the first one of the same model settings that learns from gold text alone, if it is another."""
    plain = [
        part
        for part in students
        if part.trained_on == "gold"
        and part.init_from is None
        and part.objective.type == SUITED[tag(part.model.arch)][0]
    ]
    for student in students:
        baseline = next((part for part in plain if part.model == student.model), student)
        if baseline is not student:
            yield student.name, baseline.name


def edges(pipeline: PipelineConfig) -> list[tuple[str, str]]:
    """What is made from what, for the report's drawing. Kinds stand before names: a corpus and a student share one."""
    corpora = {"gold": "gold", **{part.name: f"corpus {part.name}" for part in pipeline.select}}
    teachers = pipeline.teacher.names
    models = {name: name for name in teachers} | {part.name: f"student {part.name}" for part in pipeline.students}
    found = [("gold", name) for name in teachers] if pipeline.teacher.path is None else []
    for distill in pipeline.distill:
        found += [(start, f"k-best {distill.name}") for start in (*teachers, "gold")]
    for select in pipeline.select:
        found.append((f"k-best {select.kbest}", corpora[select.name]))
        if select.rule in ("seqinter", "oracle", "chrf", "ter"):  # weighs hypotheses against the references
            found.append(("gold", corpora[select.name]))
    for part in pipeline.soft_targets:
        found += [(start, f"soft targets {part.name}") for start in (*teachers, corpora[part.corpus])]
    for student in pipeline.students:
        found += [(corpora[part.name], models[student.name]) for part in student.corpora]
        if isinstance(student.objective, WordKdConfig):
            soft = student.objective.soft_targets
            taught_by = teachers if soft is None else (f"soft targets {soft}",)
            found += [(start, models[student.name]) for start in taught_by]
        if student.init_from is not None:
            found.append((models[student.init_from], models[student.name]))
    return found
