"""The pipeline file: a whole experiment, which `seqkd plan` resolves into one stage file per stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Discriminator, Field, Tag, model_validator

from seqkd.config.models import (
    HookConfig,
    ModelConfig,
    ObjectiveConfig,
    check_objective,
    default_model,
    default_objective,
    weighing,
    with_objective,
)
from seqkd.config.search import (
    Beams,
    Name,
    ParallelConfig,
    SearchConfig,
    SearchPrecision,
    Strict,
    check_beams,
    check_decode,
)
from seqkd.config.select import FilterConfig, SelectSettings
from seqkd.config.stages import (
    BitextConfig,
    CleaningConfig,
    InitFrom,
    SoftOptions,
    TrainingConfig,
    VocabularyConfig,
    Weight,
    check_mix,
    check_start,
    one_or_several,
)
from seqkd.extensions import shown
from seqkd.models.registry import ARCHITECTURES

BACK_TRANSLATION = "backtranslation"  # the corpus of that name
TEACHERS = "teacher-ensemble"  # several teachers together, in the report


class FetchConfig(Strict):
    """A Python script that writes the raw text: run as `python SCRIPT --out DIR ARGS...` before `prepare`."""

    script: Path = Field(..., description="relative to the repository root")
    args: tuple[str, ...] = ()


class DataConfig(Strict):
    """Where the text is; relative paths are looked up in the fetch step's output, or the working folder without one."""

    fetch: FetchConfig | None = None
    train: BitextConfig
    valid: BitextConfig
    test: BitextConfig


class PreparePart(Strict):
    """`prepare` as a pipeline file gives it."""

    vocabulary: VocabularyConfig = VocabularyConfig()
    cleaning: CleaningConfig = CleaningConfig()
    shard_rows: int = Field(10_000, ge=1)


class ModelPart(Strict):
    """A model to train; in `[student]` it holds what all students share."""

    model: ModelConfig = Field(default_factory=default_model)
    objective: ObjectiveConfig = Field(default_factory=default_objective)
    training: TrainingConfig

    _named = model_validator(mode="before")(with_objective)

    @model_validator(mode="after")
    def _suits(self) -> ModelPart:
        check_objective(self.model, self.objective)
        return self


class WeightedName(Strict):
    """A corpus among several."""

    name: Name
    weight: Weight = Field(1.0, description="how often an epoch has each row, in the mean")


CorpusNames = Annotated[
    Annotated[Name, Tag("one")] | Annotated[tuple[WeightedName, ...], Field(min_length=1), Tag("several")],
    Discriminator(one_or_several),
]


def several(corpus: CorpusNames) -> tuple[WeightedName, ...]:
    """One corpus or several, as several."""
    return (WeightedName(name=corpus),) if isinstance(corpus, str) else corpus


class StudentPart(ModelPart):
    """One student: `[student]` with its own keys laid over it."""

    name: Name
    corpus: CorpusNames = Field(..., description="'gold' or the name of a [[select]], or several with weights")
    init_from: InitFrom = Field(None, description="the name of another student, or 'teacher'; or a table")
    hooks: tuple[HookConfig, ...] | None = Field(None, min_length=1, description="called by the loop, in this order")
    decode: tuple[ParallelConfig, ...] = Field(
        (), description="for architectures that write all positions at once; none given: one with the defaults"
    )

    @model_validator(mode="after")
    def _decodes(self) -> StudentPart:
        check_decode(self.decode)
        if self.decode and self.model.record.left_to_right:
            others = ", ".join(shown(record.name) for record in ARCHITECTURES.all() if not record.left_to_right)
            raise ValueError(
                f"decode is for architectures that are not decoded by beam search ({others}); "
                f"{self.model.arch!r} is decoded with evaluate.beams"
            )
        return self

    @model_validator(mode="after")
    def _taught_here(self) -> StudentPart:
        if self.objective.teachers:
            raise ValueError("objective.teachers: the pipeline's own teacher teaches its students; leave it out")
        check_mix(self.objective, [(part.name, part.weight) for part in self.corpora])
        return self

    @property
    def starts_from(self) -> str | None:
        """The name of the model whose weights it starts from."""
        return None if self.init_from is None else self.init_from.model

    @property
    def corpora(self) -> tuple[WeightedName, ...]:
        """All training corpora."""
        return several(self.corpus)

    @property
    def trained_on(self) -> str:
        """Them in a word: `gold + 2 seqkd`."""
        return " + ".join(part.name if part.weight == 1 else f"{part.weight:g} {part.name}" for part in self.corpora)


def teacher_names(count: int) -> tuple[str, ...]:
    """`teacher`, `teacher-2`, ..."""
    return ("teacher", *(f"teacher-{number}" for number in range(2, count + 1)))


class TeacherPart(Strict):
    """A teacher to train, an ensemble of them, or with `path` one that is brought along."""

    path: Path | None = Field(None, description="a model folder; its vocabulary becomes the pipeline's")
    ensemble: int = Field(1, ge=1, le=16, description="teachers that differ in their seed alone and teach together")
    model: ModelConfig = Field(default_factory=default_model)
    objective: ObjectiveConfig = Field(default_factory=default_objective)
    training: TrainingConfig | None = None

    _named = model_validator(mode="before")(with_objective)

    @model_validator(mode="after")
    def _suits(self) -> TeacherPart:
        check_objective(self.model, self.objective)
        return self

    @model_validator(mode="after")
    def _untaught(self) -> TeacherPart:
        if self.objective.asking:
            raise ValueError(f"objective.type {self.objective.type!r} is for students: it asks the teacher")
        return self

    @model_validator(mode="after")
    def _either(self) -> TeacherPart:
        if (self.path is None) == (self.training is None):
            raise ValueError("a teacher has either `path` (bring one) or `training` (train one)")
        if self.path is not None and self.ensemble > 1:
            raise ValueError("ensemble: is of teachers that are trained here; leave it out, or leave out `path`")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What the teachers are called."""
        return teacher_names(self.ensemble)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """They, and what they are together."""
        return (*self.names, TEACHERS) if self.ensemble > 1 else self.names


class DistillPart(Strict):
    """One decode of the training corpus."""

    name: Name
    search: SearchConfig = SearchConfig(beam=5, nbest=5)
    batch_tokens: int = Field(4000, ge=1)
    precision: SearchPrecision = "auto"
    workers: int = Field(0, ge=0)


class SelectPart(SelectSettings):
    """One distilled corpus."""

    name: Name
    kbest: Name = Field(..., description="the name of a [[distill]]")


class SoftTargetsPart(SoftOptions):
    """The teacher's distributions at a training corpus' target positions."""

    name: Name
    corpus: Name = Field("gold", description="'gold' or the name of a [[select]]")


class BackTranslationPart(ModelPart):
    """Monolingual target text, made training pairs by a model of the other direction (Sennrich et al. 2016).

    The reverse model is as `[teacher]` says but for what stands here.
    """

    text: tuple[Path, ...] = Field(..., min_length=1, description="target-language text, a sentence a line")
    ratio: float = Field(1.0, gt=0.0, le=100.0, description="synthetic pairs for each pair of gold text")
    tag: str = Field("<bt>", pattern=r"^\S*$", description='piece that synthetic sources open with; "" for none')
    corpus: CorpusNames = Field("gold", description="what the reverse model learns, sides exchanged")
    search: SearchConfig = SearchConfig()
    filters: FilterConfig = FilterConfig()
    batch_tokens: int = Field(4000, ge=1)
    precision: SearchPrecision = "auto"
    workers: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> BackTranslationPart:
        if not self.model.record.left_to_right:
            raise ValueError(f"model.arch {self.model.arch!r} is not decoded by beam search: take another")
        if self.objective.asking:
            raise ValueError(f"objective.type {self.objective.type!r} asks the teacher, which translates the other way")
        if self.filters.max_ter is not None:
            raise ValueError("filters.max_ter: monolingual text has no references")
        check_mix(self.objective, [(part.name, part.weight) for part in self.corpora])
        return self

    @property
    def corpora(self) -> tuple[WeightedName, ...]:
        """What the reverse model is trained on."""
        return several(self.corpus)


class EvaluatePart(Strict):
    """How every model is evaluated."""

    beams: Beams = (1, 5)
    search: SearchConfig = SearchConfig()
    batch_tokens: int = Field(4000, ge=1)
    precision: SearchPrecision = "auto"
    threads: int = Field(1, ge=0)

    @model_validator(mode="after")
    def _beams_fit(self) -> EvaluatePart:
        check_beams(self.search, self.beams)
        return self


class PipelineConfig(Strict):
    """A pipeline file."""

    name: Name
    title: str = ""
    seed: int = 1
    data: DataConfig
    prepare: PreparePart = PreparePart()
    teacher: TeacherPart
    distill: tuple[DistillPart, ...] = ()
    select: tuple[SelectPart, ...] = ()
    soft_targets: tuple[SoftTargetsPart, ...] = ()
    backtranslation: BackTranslationPart | None = None
    students: tuple[StudentPart, ...] = ()
    rounds: int = Field(1, ge=1, le=20, description="a student of each round is the teacher of the next")
    next_teacher: Name | None = Field(None, description="which of several students that is")
    evaluate: EvaluatePart = EvaluatePart()

    @property
    def successor(self) -> StudentPart | None:
        """The student that teaches the next round; None in a pipeline of one round."""
        named = self.next_teacher or (self.students[0].name if len(self.students) == 1 else None)
        return next((part for part in self.students if self.rounds > 1 and part.name == named), None)

    @model_validator(mode="after")
    def _starts(self) -> PipelineConfig:
        models = {} if self.teacher.path else dict.fromkeys(self.teacher.names, self.teacher.model)
        models |= {student.name: student.model for student in self.students}
        for student in self.students:
            first = models.get(student.starts_from or "")
            if first is not None and first.arch == student.model.arch:
                try:
                    check_start(student.model, student.init_from, first)
                except ValueError as error:
                    raise ValueError(f"students.{student.name}.{error}") from None
        return self

    @model_validator(mode="after")
    def _kernels(self) -> PipelineConfig:
        decoded = {} if self.teacher.path else {"teacher": self.teacher.model}
        decoded |= {self.successor.name: self.successor.model} if self.successor else {}
        where = [f"distill.{part.name}" for part in self.distill if part.precision == "int8"]
        if self.evaluate.precision == "int8":
            where = ["evaluate"]
            decoded |= {student.name: student.model for student in self.students}
        others = [f"{name} ({model.arch})" for name, model in decoded.items() if model.record.cpu is None]
        if where and others:
            known = ", ".join(shown(record.name) for record in ARCHITECTURES.all() if record.cpu is not None)
            raise ValueError(f'{where[0]}.precision "int8" is for arch {known}, not for {", ".join(others)}')
        return self

    @model_validator(mode="after")
    def _weights(self) -> PipelineConfig:
        weighted = {part.name for part in self.select if part.rule == "all"}
        others = [
            f"{student.name} ({student.objective.type})"
            for student in self.students
            if not student.objective.weighing and weighted.intersection(part.name for part in student.corpora)
        ]
        if others:
            known = ", ".join(weighing())
            raise ValueError(
                f'students: rule "all" gives weights to rows, which objectives {known} count, not those of '
                f"{', '.join(others)}"
            )
        return self
