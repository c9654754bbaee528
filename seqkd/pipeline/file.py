"""The pipeline file: a whole experiment, which `seqkd plan` resolves into one stage file per stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from seqkd.config.metrics import EvaluationMetrics
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
from seqkd.config.prepare import OWN_TEST
from seqkd.config.search import (
    Beams,
    DecodedTogether,
    Name,
    ParallelConfig,
    SearchConfig,
    SearchPrecision,
    Strict,
    check_beams,
    check_decode,
)
from seqkd.config.select import FilterConfig, SelectSettings
from seqkd.config.sources import SourceConfig
from seqkd.config.stages import (
    BitextConfig,
    CleaningConfig,
    FurtherText,
    InitFrom,
    Language,
    SoftOptions,
    TrainingConfig,
    VocabularyConfig,
    Weight,
    check_mix,
    one_or_several,
)
from seqkd.extensions import display_name
from seqkd.metrics.tokenizers import TokenizerChoice
from seqkd.models.registry import ARCHITECTURES
from seqkd.text.vocabulary import find_symbol_problems

GOLD = "gold"  # a data set without a name
TEACHER = "teacher"  # a teacher without a name
BACK_TRANSLATION = "backtranslation"  # the corpus of that name
ENSEMBLE = "-ensemble"  # behind a teacher's name: its ensemble as a whole, in the report
MOST_SEEDS = 16


class FetchConfig(Strict):
    """A Python script that writes the raw text: run as `python SCRIPT --out DIR ARGS...` before `prepare`."""

    script: Path = Field(..., description="relative to the repository root")
    args: tuple[str, ...] = ()


class DataPart(Strict):
    """A data set. Relative paths are looked up in the fetch step's output, or without one in the working folder."""

    name: Name = GOLD
    fetch: FetchConfig | None = None
    train: BitextConfig
    valid: BitextConfig
    test: BitextConfig = Field(..., description='the test set that is called "test"')
    tests: dict[Name, FurtherText] = Field({}, description="further test sets by name")
    source_language: Language | None = None
    target_language: Language | None = Field(None, description="cleaning, BLEU and select follow it")

    @model_validator(mode="after")
    def _test_names(self) -> DataPart:
        if OWN_TEST in self.tests:
            raise ValueError(f"tests.{OWN_TEST}: the name is that of the data set's own test text; choose another name")
        return self


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


Seeds = Annotated[
    int,
    Field(ge=1, le=MOST_SEEDS, description="how many models that differ in their seed alone; the first has the name"),
]


class WeightedName(Strict):
    """A corpus among several."""

    name: Name
    weight: Weight = Field(1.0, description="how often an epoch has each row, in the mean")


CorpusNames = Annotated[
    Annotated[Name, Tag("one")] | Annotated[tuple[WeightedName, ...], Field(min_length=1), Tag("several")],
    Discriminator(one_or_several),
]


def several(corpus: CorpusNames | None) -> tuple[WeightedName, ...]:
    """The corpora that a part names, as several; none if it leaves them out."""
    if corpus is None:
        return ()
    return (WeightedName(name=corpus),) if isinstance(corpus, str) else corpus


class StudentPart(ModelPart):
    """One student: `[student]` with its own keys laid over it."""

    name: Name
    corpus: CorpusNames = Field(..., description="a data set, such as 'gold', a [[select]], or several with weights")
    teacher: Name | None = Field(None, description="the model that its objective asks; left out: the only teacher")
    seeds: Seeds = 1
    init_from: InitFrom = Field(None, description="the name of another student, or of a teacher; or a table")
    vocabulary: Name | None = Field(None, description="one of [[vocabularies]]; left out: its data set's")
    hooks: tuple[HookConfig, ...] | None = Field(None, min_length=1, description="called by the loop, in this order")
    decode: tuple[ParallelConfig, ...] = Field(
        (), description="for architectures that write all positions at once; none given: one with the defaults"
    )

    @model_validator(mode="after")
    def _decodes(self) -> StudentPart:
        check_decode(self.decode)
        if self.decode and self.model.record.left_to_right:
            others = ", ".join(display_name(record.name) for record in ARCHITECTURES.all() if not record.left_to_right)
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
    def corpora(self) -> tuple[WeightedName, ...]:
        """All training corpora."""
        return several(self.corpus)


def teacher_names(name: str, count: int) -> tuple[str, ...]:
    """The members of an ensemble: `teacher`, `teacher-2`, ..."""
    return (name, *(f"{name}-{number}" for number in range(2, count + 1)))


class TeacherPart(Strict):
    """A teacher to train, an ensemble of them, or with `path` one that is brought along."""

    name: Name = TEACHER
    corpus: CorpusNames | None = Field(None, description="its training text; left out: the only data set")
    path: Path | None = Field(None, description="a model folder; its vocabulary becomes that of its data set")
    ensemble: int = Field(1, ge=1, le=16, description="teachers that differ in their seed alone and teach together")
    seeds: Seeds = 1
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
        check_mix(self.objective, [(part.name, part.weight) for part in several(self.corpus)])
        return self

    @model_validator(mode="after")
    def _either(self) -> TeacherPart:
        if (self.path is None) == (self.training is None):
            raise ValueError("a teacher has either `path` (bring one) or `training` (train one)")
        if self.path is not None and self.ensemble > 1:
            raise ValueError("ensemble: is of teachers that are trained here; leave it out, or leave out `path`")
        if self.seeds > 1 and (self.path is not None or self.ensemble > 1):
            raise ValueError(
                "seeds: is of a teacher that is trained here and teaches alone; leave it out, or leave out "
                "`path` and `ensemble`"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its members; one name unless it is an ensemble."""
        return teacher_names(self.name, self.ensemble)

    @property
    def whole(self) -> str:
        """Under which name the report has it as a whole."""
        return self.name + ENSEMBLE if self.ensemble > 1 else self.name


class DistillPart(Strict):
    """One decode of a corpus: by a teacher, or by another source."""

    name: Name
    teacher: Name | None = Field(None, description="a teacher or a student; left out: the only teacher")
    source: SourceConfig | None = Field(None, description="what writes the lists in place of a teacher")
    corpus: Name | None = Field(None, description="what is decoded; left out: the only data set")
    search: SearchConfig = SearchConfig(beam=5, nbest=5)
    batch_tokens: DecodedTogether = 4000
    precision: SearchPrecision = "auto"
    workers: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _searches(self) -> DistillPart:
        others = self.model_fields_set & {"teacher", "search", "batch_tokens", "precision"}
        if self.source is not None and others:
            raise ValueError(f"{', '.join(sorted(others))}: is for a teacher, and `source` stands in place of one")
        return self


class SelectPart(SelectSettings):
    """One distilled corpus."""

    name: Name
    kbest: Name = Field(..., description="the name of a [[distill]]")


class SoftTargetsPart(SoftOptions):
    """The teacher's distributions at a training corpus' target positions."""

    name: Name
    teacher: Name | None = Field(None, description="a teacher or a student; left out: the only teacher")
    corpus: Name | None = Field(None, description="a data set or a [[select]]; left out: the only data set")


class BackTranslationPart(ModelPart):
    """Monolingual target text, made training pairs by a model of the other direction (Sennrich et al. 2016).

    The reverse model is as `[teacher]` says but for what stands here.
    """

    text: tuple[Path, ...] = Field(..., min_length=1, description="target-language text, a sentence a line")
    ratio: float = Field(1.0, gt=0.0, le=100.0, description="synthetic pairs for each pair of gold text")
    tag: str = Field("<bt>", pattern=r"^\S*$", description='piece that synthetic sources open with; "" for none')
    corpus: CorpusNames | None = Field(
        None, description="what the reverse model learns, sides exchanged; left out: the only data set"
    )
    search: SearchConfig = SearchConfig()
    filters: FilterConfig = FilterConfig()
    batch_tokens: DecodedTogether = 4000
    precision: SearchPrecision = "auto"
    workers: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> BackTranslationPart:
        if not self.model.record.left_to_right:
            raise ValueError(f"model.arch {self.model.arch!r} is not decoded by beam search: take another")
        if self.objective.asking:
            raise ValueError(f"objective.type {self.objective.type!r} asks the teacher, which translates the other way")
        for name in self.filters.reads("references"):
            raise ValueError(f"filters.{name}: monolingual text has no references")
        check_mix(self.objective, [(part.name, part.weight) for part in several(self.corpus)])
        return self


class VocabularyPart(VocabularyConfig):
    """A further vocabulary."""

    name: Name
    corpus: Name | None = Field(None, description="whose training text it is learnt from; left out: the only data set")


class EvaluatePart(Strict):
    """How every model is evaluated."""

    beams: Beams = (1, 5)
    search: SearchConfig = SearchConfig()
    batch_tokens: int = Field(4000, ge=1)
    precision: SearchPrecision = "auto"
    threads: int = Field(1, ge=0)
    tokenizer: TokenizerChoice = Field("auto", description="of BLEU; auto: by data.target_language")
    metrics: EvaluationMetrics = None

    @model_validator(mode="after")
    def _beams_fit(self) -> EvaluatePart:
        check_beams(self.search, self.beams)
        return self


def as_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    """A file's values with [data] as the only one of [[data]], and [teacher] as the only one of [[teachers]]."""
    changed = dict(values)
    if isinstance(changed.get("data"), dict):
        changed["data"] = [changed["data"]]
    if "teacher" in changed and "teachers" not in changed:
        changed["teachers"] = [changed.pop("teacher")]
    return changed


class PipelineConfig(Strict):
    """A pipeline file."""

    name: Name
    title: str = ""
    seed: int = 1
    data: tuple[DataPart, ...] = Field(..., description="[data], or several [[data]]")
    prepare: PreparePart = PreparePart()
    teachers: tuple[TeacherPart, ...] = Field(..., description="[teacher], or several [[teachers]]")
    vocabularies: tuple[VocabularyPart, ...] = ()
    distill: tuple[DistillPart, ...] = ()
    select: tuple[SelectPart, ...] = ()
    soft_targets: tuple[SoftTargetsPart, ...] = ()
    backtranslation: BackTranslationPart | None = None
    students: tuple[StudentPart, ...] = ()
    rounds: int = Field(1, ge=1, le=20, description="a student of each round is the teacher of the next")
    next_teacher: Name | None = Field(None, description="which of several students that is")
    evaluate: EvaluatePart = EvaluatePart()

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: Any) -> Any:
        return as_lists(values) if isinstance(values, dict) else values

    @property
    def successor(self) -> StudentPart | None:
        """The student that teaches the next round; None in a pipeline of one round."""
        named = self.next_teacher or (self.students[0].name if len(self.students) == 1 else None)
        return next((part for part in self.students if self.rounds > 1 and part.name == named), None)

    @model_validator(mode="after")
    def _some(self) -> PipelineConfig:
        if not self.data or not self.teachers:
            raise ValueError("data, teachers: a pipeline has at least one of each")
        return self

    @model_validator(mode="after")
    def _tag(self) -> PipelineConfig:
        settings, part = self.prepare.vocabulary, self.backtranslation
        if part is not None and part.tag and all(teacher.path is None for teacher in self.teachers):
            problems = find_symbol_problems(
                (), (part.tag,), byte_fallback=settings.byte_fallback, normalization=settings.normalization
            )
            if problems:
                raise ValueError(f"backtranslation.tag: {problems[0]}")
        return self

    @model_validator(mode="after")
    def _kernels(self) -> PipelineConfig:
        models = {part.name: part.model for part in self.teachers if part.path is None}
        models |= {part.name: part.model for part in self.students}
        where, asked = [], set[str]()
        for part in self.distill:
            if part.precision == "int8":
                where.append(f"distill.{part.name}")
                asked |= {teacher.name for teacher in self.teachers if part.teacher in (None, *teacher.names)}
                asked |= {name for name in (part.teacher, self.successor and self.successor.name) if name}
        if self.evaluate.precision == "int8":
            where, asked = ["evaluate"], set(models)
        others = [
            f"{name} ({model.arch})" for name, model in models.items() if name in asked and model.record.cpu is None
        ]
        if where and others:
            known = ", ".join(display_name(record.name) for record in ARCHITECTURES.all() if record.cpu is not None)
            raise ValueError(f'{where[0]}.precision "int8" is for arch {known}, not for {", ".join(others)}')
        return self

    @model_validator(mode="after")
    def _weights(self) -> PipelineConfig:
        weighted = {part.name for part in self.select if part.keeps_all}
        for where, models in (("teachers", self.teachers), ("students", self.students)):
            others = [
                f"{part.name} ({part.objective.type})"
                for part in models
                if not part.objective.weighing and weighted.intersection(share.name for share in several(part.corpus))
            ]
            if others:
                raise ValueError(
                    f'{where}: rule "all" gives weights to rows, which objectives {", ".join(weighing())} count, not '
                    f"those of {', '.join(others)}"
                )
        return self
