"""How the parts of a pipeline belong together, for its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from seqkd.config.select import WITH_REFERENCES
from seqkd.pipeline.file import BACK_TRANSLATION, PipelineConfig, StudentPart
from seqkd.pipeline.rounds import Round


def baselines(students: Sequence[StudentPart]) -> Iterator[tuple[str, str]]:
    """For each student the first one of the same model settings that learns from gold text alone, if it is another."""
    plain = [
        part
        for part in students
        if part.trained_on == "gold" and part.init_from is None and part.objective.type == part.model.record.objective
    ]
    for student in students:
        baseline = next((part for part in plain if part.model == student.model), student)
        if baseline is not student:
            yield student.name, baseline.name


def edges(pipeline: PipelineConfig, rounds: Sequence[Round]) -> list[tuple[str, str]]:
    """What is made from what, for the report's drawing. Kinds stand before names: a corpus and a student share one."""
    found = [("gold", name) for name in pipeline.teacher.names] if pipeline.teacher.path is None else []
    for made in rounds:
        found += _edges(pipeline, made)
    return found


def _edges(pipeline: PipelineConfig, made: Round) -> Iterator[tuple[str, str]]:
    def corpus(name: str) -> str:
        return name if name == "gold" else f"corpus {name}"

    def model(name: str) -> str:
        return name if name in pipeline.teacher.names else f"student {name}"

    teachers = [model(name) for name in made.teachers]
    for distill in made.distill:
        yield from ((start, f"k-best {distill.name}") for start in (*teachers, "gold"))
    for select in made.select:
        yield f"k-best {select.kbest}", corpus(select.name)
        if select.rule in WITH_REFERENCES:
            yield "gold", corpus(select.name)
    if made.backtranslation is not None:
        name, reverse = made.named(BACK_TRANSLATION), made.named("reverse")
        yield from ((corpus(part.name), reverse) for part in made.backtranslation.corpora)
        yield from ((start, f"k-best {name}") for start in (reverse, "monolingual text"))
        yield f"k-best {name}", corpus(name)
    for soft in made.soft_targets:
        yield from ((start, f"soft targets {soft.name}") for start in (*teachers, corpus(soft.corpus)))
    for student in made.students:
        own = model(student.name)
        yield from ((corpus(part.name), own) for part in student.corpora)
        if student.objective.live:
            yield from ((start, own) for start in teachers)
        if student.objective.soft_targets is not None:
            yield f"soft targets {student.objective.soft_targets}", own
        if student.starts_from is not None:
            yield model(student.starts_from), own
