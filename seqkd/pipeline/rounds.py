"""A pipeline's rounds: in each, what depends on the teacher is made again, by a student of the round before.

Born-again networks (Furlanello et al. 2018), and iterated sequence-level distillation. The first round has the names
that the file gives; in round n the names of what is made again end in `.round<n>`. So more rounds change nothing that
is there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from seqkd.models.registry import ARCHITECTURES
from seqkd.pipeline.file import (
    BACK_TRANSLATION,
    BackTranslationPart,
    CorpusNames,
    DistillPart,
    PipelineConfig,
    SelectPart,
    SoftTargetsPart,
    StudentPart,
)

_OF_A_ROUND = re.compile(r"\.round\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What is made in one round, by the names that it has there.

    Attributes:
        number: From 1.
        teachers: Models that teach.
        distill: Decodes of the gold text.
        select: Distilled corpora.
        soft_targets: The teachers' distributions.
        backtranslation: None where there is none, or that of the first round serves.
        students: Those that learn from the teachers; in the first round all.
    """

    number: int
    teachers: tuple[str, ...]
    distill: tuple[DistillPart, ...]
    select: tuple[SelectPart, ...]
    soft_targets: tuple[SoftTargetsPart, ...]
    backtranslation: BackTranslationPart | None
    students: tuple[StudentPart, ...]

    def named(self, name: str) -> str:
        """The name that something which is made again has in this round."""
        return name if self.number == 1 else f"{name}.round{self.number}"


def rounds_of(pipeline: PipelineConfig) -> list[Round]:
    """All rounds, each with the stages that it adds."""
    first = Round(
        number=1,
        teachers=pipeline.teacher.names,
        distill=pipeline.distill,
        select=pipeline.select,
        soft_targets=pipeline.soft_targets,
        backtranslation=pipeline.backtranslation,
        students=pipeline.students,
    )
    rounds, successor = [first], pipeline.successor
    for number in range(2, pipeline.rounds + 1 if successor is not None else 2):
        assert successor is not None
        rounds.append(_later(pipeline, number, rounds[-1].named(successor.name)))
    return rounds


def taught(pipeline: PipelineConfig) -> tuple[set[str], set[str]]:
    """Corpora and students, by name, that another teacher would make other ones."""
    corpora = {part.name for part in pipeline.select}
    reverse = pipeline.backtranslation
    if reverse is not None and any(part.name in corpora for part in reverse.corpora):
        corpora.add(BACK_TRANSLATION)
    students: set[str] = set()
    for _ in pipeline.students:  # as many steps as a chain of `init_from` can have
        students |= {
            part.name
            for part in pipeline.students
            if part.objective.asking
            or part.starts_from in students
            or any(share.name in corpora for share in part.corpora)
        }
    return corpora, students


def round_problems(pipeline: PipelineConfig) -> list[str]:
    """What is wrong with a pipeline's rounds, where the rest of the file is right."""
    names = [part.name for part in pipeline.students]
    there = ", ".join(names) or "nothing"
    if pipeline.next_teacher is not None and pipeline.next_teacher not in names:
        return [f"next_teacher: no [[students]] is named {pipeline.next_teacher!r}; there is {there}"]
    if pipeline.rounds == 1:
        return []
    named = {
        "distill": [part.name for part in pipeline.distill],
        "select": [part.name for part in pipeline.select],
        "soft_targets": [part.name for part in pipeline.soft_targets],
        "students": names,
    }
    lines = [
        f"{kind}.{name}: names that end so are those of later rounds"
        for kind, members in named.items()
        for name in members
        if _OF_A_ROUND.search(name)
    ]
    successor = pipeline.successor
    if successor is None:
        lines.append(
            f"next_teacher: missing: the student that teaches the next of {pipeline.rounds} rounds; there is {there}"
            if names
            else f"rounds: is {pipeline.rounds}, but there are no [[students]] that could teach the next round"
        )
    elif not successor.model.record.left_to_right:
        teaching = ", ".join(record.name for record in ARCHITECTURES.all() if record.left_to_right)
        lines.append(
            f"next_teacher: {successor.name!r} is of arch {successor.model.arch!r}, which beam search does not decode; "
            f"name a student that can teach, one of: {teaching}"
        )
    elif successor.name not in taught(pipeline)[1]:
        lines.append(
            f"next_teacher: {successor.name!r} learns nothing from the teacher, so that each round would be like the "
            "one before; name a student of a distilled corpus, or of objective word_kd"
        )
    return lines


def _later(pipeline: PipelineConfig, number: int, teacher: str) -> Round:
    corpora, students = taught(pipeline)

    def named(name: str) -> str:
        return f"{name}.round{number}"

    def those(corpus: CorpusNames) -> CorpusNames:
        if isinstance(corpus, str):
            return named(corpus) if corpus in corpora else corpus
        return tuple(
            part.model_copy(update={"name": named(part.name)}) if part.name in corpora else part for part in corpus
        )

    def student(part: StudentPart) -> StudentPart:
        changed: dict[str, object] = {"name": named(part.name), "corpus": those(part.corpus)}
        if part.init_from is not None and part.init_from.model in students:
            changed["init_from"] = replace(part.init_from, model=named(part.init_from.model))
        written = part.objective.soft_targets
        if written is not None:
            changed["objective"] = part.objective.taught_by(soft_targets=Path(named(str(written))))
        return part.model_copy(update=changed)

    reverse = pipeline.backtranslation
    return Round(
        number=number,
        teachers=(teacher,),
        distill=tuple(part.model_copy(update={"name": named(part.name)}) for part in pipeline.distill),
        select=tuple(
            part.model_copy(update={"name": named(part.name), "kbest": named(part.kbest)}) for part in pipeline.select
        ),
        soft_targets=tuple(
            part.model_copy(update={"name": named(part.name), "corpus": those(part.corpus)})
            for part in pipeline.soft_targets
        ),
        backtranslation=reverse.model_copy(update={"corpus": those(reverse.corpus)})
        if reverse is not None and BACK_TRANSLATION in corpora
        else None,
        students=tuple(student(part) for part in pipeline.students if part.name in students),
    )
