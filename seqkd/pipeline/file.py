"""The schema of the pipeline file, a whole experiment that `seqkd plan` resolves into one stage file per stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from seqkd.config.formats import ExportFormat, ImportFormat
from seqkd.config.metrics import EvaluationMetrics
from seqkd.config.models import (
    HookConfig,
    ModelConfig,
    ObjectiveConfig,
    check_objective,
    default_model,
    default_objective,
    list_weighing_objectives,
    with_objective,
)
from seqkd.config.prepare import OWN_TEST, SourceTag
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
    CorpusTemperature,
    FurtherText,
    InitFrom,
    Language,
    SoftOptions,
    TargetRows,
    TrainingConfig,
    VocabularyConfig,
    check_blocks,
    check_mix,
    is_mixed,
    with_blocks,
)
from seqkd.extensions import display_name
from seqkd.metrics.tokenizers import TokenizerChoice
from seqkd.models.registry import ARCHITECTURES
from seqkd.pipeline.names import (
    BlockName,
    CorpusNames,
    DataNames,
    TeacherNames,
    WeightedName,
    check_mixing,
    list_corpora,
)
from seqkd.text.vocabulary import find_symbol_problems

GOLD = "gold"  # the name of a data set without a name
TEACHER = "teacher"  # the name of a teacher without a name
BACK_TRANSLATION = "backtranslation"  # the name of the corpus that [backtranslation] makes
SELF_TRAINING = "selftraining"  # the name of the corpus that [selftraining] makes
ENSEMBLE = "-ensemble"  # the suffix of a teacher's name that stands for the whole ensemble in the report
MOST_SEEDS = 16


class FetchConfig(Strict):
    """A Python script that writes files, run as `python SCRIPT --out DIR ARGS...` before the stage that reads them."""

    script: Path = Field(..., description="relative to the repository root")
    args: tuple[str, ...] = ()


class DataPart(Strict):
    """A data set. Relative paths are resolved in the output of the fetch step or, if none, in the working folder."""

    name: Name = GOLD
    fetch: FetchConfig | None = None
    train: BitextConfig
    valid: BitextConfig
    test: BitextConfig = Field(..., description='the test set with the name "test"')
    tests: dict[Name, FurtherText] = Field({}, description="further test sets by name")
    source_language: Language | None = None
    target_language: Language | None = Field(None, description="determines cleaning and the tokenizer of BLEU")
    tag: SourceTag = None
    shares_sources: Name | None = Field(
        None,
        description="a data set whose training sources are the same, line by line; rows are joined by their source",
    )

    @model_validator(mode="after")
    def _check_test_names(self) -> DataPart:
        if OWN_TEST in self.tests:
            raise ValueError(
                f"tests.{OWN_TEST}: this name belongs to the data set's own test text; choose another name"
            )
        return self


class PreparePart(Strict):
    """The settings of `prepare` in a pipeline file."""

    vocabulary: VocabularyConfig = VocabularyConfig()
    cleaning: CleaningConfig = CleaningConfig()
    shard_rows: int = Field(10_000, ge=1)


class ModelPart(Strict):
    """A model to train. `[student]` holds the settings that all students share."""

    model: ModelConfig = Field(default_factory=default_model)
    objective: ObjectiveConfig = Field(default_factory=default_objective)
    training: TrainingConfig

    _fill_in_objective = model_validator(mode="before")(with_objective)

    @model_validator(mode="after")
    def _check_model(self) -> ModelPart:
        check_objective(self.model, self.objective)
        return self


Seeds = Annotated[
    int,
    Field(
        ge=1, le=MOST_SEEDS, description="number of models that differ only in their seed; the first one has the name"
    ),
]


def _check_mixing(objective: ObjectiveConfig, corpora: tuple[WeightedName, ...], temperature: float | None) -> None:
    """Raise ValueError if corpora cannot be mixed, or have both weights and a temperature."""
    check_mix(objective, [part.name for part in corpora], mixed=is_mixed(corpora))
    check_mixing(corpora, temperature)


class StudentPart(ModelPart):
    """One student: the keys of `[student]`, overridden by its own."""

    name: Name
    corpus: CorpusNames | None = Field(
        ..., description="a data set, such as 'gold', a [[select]], or a list of them with weights"
    )
    corpus_temperature: CorpusTemperature = None
    alternate: tuple[BlockName, ...] | None = Field(
        None, description="in place of `corpus`: corpora in turn, each for a block of updates"
    )
    teacher: TeacherNames | None = Field(
        None,
        description="the model that its objective asks, or a table with the one of each data set; if left out, the "
        "only teacher",
    )
    soft_targets: dict[Name, Name] = Field(
        {}, description="the [[soft_targets]] of each data set, in place of teachers that its objective asks"
    )
    seeds: Seeds = 1
    init_from: InitFrom = Field(None, description="the name of another student, or of a teacher; or a table")
    vocabulary: Name | None = Field(None, description="one of [[vocabularies]]; if left out, that of its data set")
    hooks: tuple[HookConfig, ...] | None = Field(None, min_length=1, description="called by the loop, in this order")
    decode: tuple[ParallelConfig, ...] = Field(
        (), description="for architectures that write all positions at once; if left out, one with the defaults"
    )

    _fill_in_corpus = model_validator(mode="before")(with_blocks)

    @model_validator(mode="after")
    def _check_decode(self) -> StudentPart:
        check_decode(self.decode)
        if self.decode and self.model.record.left_to_right:
            others = ", ".join(display_name(record.name) for record in ARCHITECTURES.all() if not record.left_to_right)
            raise ValueError(
                f"decode is for architectures that are not decoded by beam search ({others}); "
                f"{self.model.arch!r} is decoded with evaluate.beams"
            )
        return self

    @model_validator(mode="after")
    def _check_teaching(self) -> StudentPart:
        if self.objective.teachers:
            raise ValueError("objective.teachers: the students of a pipeline learn from its own teacher; leave it out")
        check_blocks(
            self.corpus,
            None if self.alternate is None else [block.corpus for block in self.alternate],
            self.corpus_temperature,
        )
        _check_mixing(self.objective, self.corpora, self.corpus_temperature)
        return self

    @property
    def corpora(self) -> tuple[WeightedName, ...]:
        """All training corpora."""
        if self.alternate is not None:
            return tuple(WeightedName(name=block.corpus) for block in self.alternate)
        return list_corpora(self.corpus)


def teacher_names(name: str, count: int) -> tuple[str, ...]:
    """Return the names of the members of an ensemble: `teacher`, `teacher-2`, ..."""
    return (name, *(f"{name}-{number}" for number in range(2, count + 1)))


class TeacherPart(Strict):
    """A teacher or an ensemble to train, a model that is brought along, or a source that is asked."""

    name: Name = TEACHER
    corpus: CorpusNames | None = Field(None, description="its training text; if left out, the only data set")
    corpus_temperature: CorpusTemperature = None
    path: Path | None = Field(
        None, description="a model folder; without [prepare.vocabulary], its vocabulary becomes that of its data set"
    )
    format: ImportFormat | None = Field(
        None, description="the format of another toolkit that `path` has, or a table with its settings"
    )
    fetch: FetchConfig | None = Field(
        None, description="a script that writes `path`, which is then in its output; it also gets --text FILE..."
    )
    vocabulary: Name | None = Field(None, description="one of [[vocabularies]]; if left out, that of its data set")
    source: SourceConfig | None = Field(
        None, description="a source of k-best lists in place of a model, such as an external worker"
    )
    ensemble: int = Field(
        1,
        ge=1,
        le=16,
        description="number of teachers that teach together: trained with other seeds, or with `path` the folders "
        "PATH, PATH-2 and so on",
    )
    seeds: Seeds = 1
    model: ModelConfig = Field(default_factory=default_model)
    objective: ObjectiveConfig = Field(default_factory=default_objective)
    training: TrainingConfig | None = None

    _fill_in_objective = model_validator(mode="before")(with_objective)

    @model_validator(mode="after")
    def _check_model(self) -> TeacherPart:
        check_objective(self.model, self.objective)
        return self

    @model_validator(mode="after")
    def _check_not_taught(self) -> TeacherPart:
        if self.objective.asking:
            raise ValueError(f"objective.type {self.objective.type!r} is for students: it asks the teacher")
        _check_mixing(self.objective, list_corpora(self.corpus), self.corpus_temperature)
        return self

    @model_validator(mode="after")
    def _check_either(self) -> TeacherPart:
        if (self.path, self.training, self.source).count(None) != 2:
            raise ValueError("a teacher has either `path` (bring one), `training` (train one) or `source` (ask one)")
        others = self.model_fields_set & {"ensemble", "seeds", "model", "vocabulary", "corpus_temperature"}
        others |= {"objective"} if self.objective != default_objective() else set()
        if self.source is not None and others:
            raise ValueError(f"{', '.join(sorted(others))}: is for a teacher that is trained here, not for `source`")
        if self.path is None and self.format is not None:
            raise ValueError("format: is only for a teacher with `path`; leave it out, or give `path`")
        if self.format is not None and self.ensemble > 1:
            raise ValueError("ensemble: is not for a teacher with `format`; import the members, and leave `format` out")
        if self.format is None and self.fetch is not None:
            raise ValueError("fetch: is only for a teacher with `format`; leave it out, or give `format`")
        if self.path is not None and self.vocabulary is not None:
            raise ValueError("vocabulary: a teacher that is brought along keeps its own; leave it out")
        if self.seeds > 1 and (self.path is not None or self.ensemble > 1):
            raise ValueError(
                "seeds: is only for a teacher that is trained here and teaches alone; leave out `seeds`, or leave "
                "out `path` and `ensemble`"
            )
        return self

    @property
    def corpora(self) -> tuple[WeightedName, ...]:
        """All training corpora that it names."""
        return list_corpora(self.corpus)

    @property
    def trained(self) -> bool:
        """Whether the pipeline trains it."""
        return self.training is not None

    @property
    def folder(self) -> Path | None:
        """The model folder that is brought along; None for a model that a stage trains or imports."""
        return self.path if self.format is None else None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the members; a single name unless it is an ensemble."""
        return teacher_names(self.name, self.ensemble)

    def find_folder(self, name: str) -> Path | None:
        """Return the model folder of a member that is brought along: PATH, PATH-2, PATH-3; None if it is trained."""
        folder = self.folder
        return None if folder is None else folder.with_name(folder.name + name.removeprefix(self.name))

    @property
    def whole(self) -> str:
        """The name in the report of the teacher, or of the ensemble as a whole."""
        return self.name + ENSEMBLE if self.ensemble > 1 else self.name


class DistillPart(Strict):
    """One decode of a corpus: by a teacher, or by another source."""

    name: Name
    teacher: Name | None = Field(None, description="a teacher or a student; if left out, the only teacher")
    source: SourceConfig | None = Field(None, description="the source of the lists in place of a teacher")
    corpus: Name | None = Field(None, description="the corpus that is decoded; if left out, the only data set")
    search: SearchConfig = SearchConfig(beam=5, nbest=5)
    batch_tokens: DecodedTogether = 4000
    precision: SearchPrecision = "auto"
    workers: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check_source(self) -> DistillPart:
        fields = type(self).model_fields
        others = [
            name
            for name in ("batch_tokens", "precision", "search", "teacher")
            if getattr(self, name) != fields[name].default
        ]
        if self.source is not None and others:
            raise ValueError(
                f"{', '.join(others)}: is for a teacher, which `source` replaces; leave out one or the other"
            )
        return self


class SelectPart(SelectSettings):
    """One distilled corpus."""

    name: Name
    kbest: Name = Field(..., description="the name of a [[distill]]")


class SamplePart(Strict):
    """One target of each source, drawn at random."""

    name: Name
    corpus: Name | None = Field(
        None, description="a data set with several targets for each source; if left out, the only data set"
    )


class SoftTargetsPart(SoftOptions):
    """The teacher's distributions at a training corpus' target positions."""

    name: Name
    teacher: Name | None = Field(None, description="a teacher or a student; if left out, the only teacher")
    corpus: Name | None = Field(None, description="a data set or a [[select]]; if left out, the only data set")


class BackTranslationPart(ModelPart):
    """Training pairs from monolingual target text and a reverse model (Sennrich et al. 2016).

    The reverse model has the settings of `[teacher]`, overridden by the keys of this table.
    """

    text: tuple[Path, ...] = Field(..., min_length=1, description="target-language text, one sentence per line")
    ratio: float = Field(1.0, gt=0.0, le=100.0, description="synthetic pairs for each pair of gold text")
    tag: str = Field("<bt>", pattern=r"^\S*$", description='the piece that synthetic sources start with; "" for no tag')
    corpus: CorpusNames | None = Field(
        None, description="training text of the reverse model, with the sides exchanged; if left out, the only data set"
    )
    search: SearchConfig = SearchConfig()
    filters: FilterConfig = FilterConfig()
    batch_tokens: DecodedTogether = 4000
    precision: SearchPrecision = "auto"
    workers: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check_settings(self) -> BackTranslationPart:
        if not self.model.record.left_to_right:
            raise ValueError(f"model.arch {self.model.arch!r} is not decoded by beam search; take another architecture")
        if self.objective.asking:
            raise ValueError(
                f"objective.type {self.objective.type!r} asks the teacher, which translates in the other direction"
            )
        if self.objective.reads_rivals:
            raise ValueError(f"objective.type {self.objective.type!r} reads rivals, which the reverse model has not")
        for name in self.filters.reads("references"):
            raise ValueError(f"filters.{name}: monolingual text has no references")
        _check_mixing(self.objective, list_corpora(self.corpus), None)
        return self


class SelfTrainingPart(SelectSettings):
    """Training pairs from monolingual source text, whose targets a model writes (He et al. 2020).

    The choice among its hypotheses has the settings of a `[[select]]`; the rule is `seqkd` unless the file gives one.
    """

    rule: str = "seqkd"
    text: tuple[Path, ...] = Field(..., min_length=1, description="source-language text, one sentence per line")
    ratio: float = Field(1.0, gt=0.0, le=100.0, description="pseudo-pairs for each pair of gold text")
    teacher: Name | None = Field(None, description="a teacher or a student; if left out, the only teacher")
    corpus: Name | None = Field(None, description="the data set that the text belongs to; if left out, the only one")
    search: SearchConfig = SearchConfig(beam=5, nbest=5)
    batch_tokens: DecodedTogether = 4000
    precision: SearchPrecision = "auto"

    @model_validator(mode="after")
    def _check_references(self) -> SelfTrainingPart:
        if self.reads_references:
            raise ValueError("the rule, a filter or the scorer reads references, and monolingual text has none")
        if self.rejected == "gold":
            raise ValueError('rejected: monolingual text has no gold targets; give "drop" or "next"')
        return self


class VocabularyPart(VocabularyConfig):
    """A further vocabulary, with the settings of `[prepare.vocabulary]`."""

    name: Name
    corpus: DataNames | None = Field(
        None,
        description="the data set whose training text it is learnt from, or a list of data sets; if left out, the only "
        "data set",
    )

    @property
    def settings(self) -> VocabularyConfig:
        """The settings of the vocabulary itself."""
        return VocabularyConfig(**self.model_dump(exclude={"name", "corpus"}))


class ExportPart(Strict):
    """A model in the format of another toolkit."""

    name: Name
    model: Name = Field(..., description="a student or a teacher")
    format: ExportFormat = Field(..., description="the name of the format, or a table with its settings")


class EvaluatePart(Strict):
    """The settings of the evaluation of all models."""

    beams: Beams = (1, 5)
    search: SearchConfig = SearchConfig()
    batch_tokens: int = Field(4000, ge=1)
    precision: SearchPrecision = "auto"
    threads: int = Field(1, ge=0)
    tokenizer: TokenizerChoice = Field("auto", description="tokenizer of BLEU; auto: by data.target_language")
    metrics: EvaluationMetrics = None
    targets: tuple[Name, ...] = Field(
        (), description="data sets and [[select]] tables; each model's log-probability of their targets is measured"
    )
    target_rows: TargetRows = 500
    agreement: Name | None = Field(
        None, description="a teacher or a student with whose outputs the outputs of all models are compared"
    )

    @model_validator(mode="after")
    def _check_beams(self) -> EvaluatePart:
        check_beams(self.search, self.beams)
        return self


class LanguagePart(Strict):
    """A language of the targets. Relative paths are those of the text of the data set."""

    text: Path = Field(..., description="text of this language alone, whose words give the probabilities")
    test: Path | None = Field(None, description="test text of this language alone, with which outputs are compared")


class ReportPart(Strict):
    """The settings of the report."""

    languages: dict[Name, LanguagePart] = Field({}, description="the languages of the targets, if there are several")

    @model_validator(mode="after")
    def _check_languages(self) -> ReportPart:
        if len(self.languages) == 1:
            raise ValueError("languages: there is one; name at least two, or leave the table out")
        return self


def put_in_lists(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace [data] and [teacher] in the values of a file by lists [[data]] and [[teachers]] with one entry."""
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
    samples: tuple[SamplePart, ...] = ()
    distill: tuple[DistillPart, ...] = ()
    select: tuple[SelectPart, ...] = ()
    soft_targets: tuple[SoftTargetsPart, ...] = ()
    backtranslation: BackTranslationPart | None = None
    selftraining: SelfTrainingPart | None = None
    students: tuple[StudentPart, ...] = ()
    rounds: int = Field(1, ge=1, le=20, description="number of rounds; a student of each round teaches the next")
    next_teacher: Name | None = Field(None, description="the student that teaches the next round, if there are several")
    exports: tuple[ExportPart, ...] = ()
    evaluate: EvaluatePart = EvaluatePart()
    report: ReportPart = ReportPart()

    @model_validator(mode="before")
    @classmethod
    def _put_in_lists(cls, values: Any) -> Any:
        return put_in_lists(values) if isinstance(values, dict) else values

    @property
    def learns_vocabulary(self) -> bool:
        """Whether data sets learn a vocabulary even if a teacher is brought along, because the file has its table."""
        return "vocabulary" in self.prepare.model_fields_set

    @property
    def successor(self) -> StudentPart | None:
        """The student that teaches the next round; None in a pipeline of one round."""
        named = self.next_teacher or (self.students[0].name if len(self.students) == 1 else None)
        return next((part for part in self.students if self.rounds > 1 and part.name == named), None)

    @model_validator(mode="after")
    def _check_parts(self) -> PipelineConfig:
        if not self.data or not self.teachers:
            raise ValueError("data, teachers: a pipeline has at least one of each")
        return self

    @model_validator(mode="after")
    def _check_tag(self) -> PipelineConfig:
        settings, part = self.prepare.vocabulary, self.backtranslation
        if part is not None and part.tag and all(teacher.path is None for teacher in self.teachers):
            problems = find_symbol_problems(
                (), (part.tag,), byte_fallback=settings.byte_fallback, normalization=settings.normalization
            )
            if problems:
                raise ValueError(f"backtranslation.tag: {problems[0]}")
        return self

    @model_validator(mode="after")
    def _check_kernels(self) -> PipelineConfig:
        models = {part.name: part.model for part in self.teachers if part.trained}
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
    def _check_rivals(self) -> PipelineConfig:
        paired = {part.name for part in self.select if part.record.rivals is not None}
        for where, models in (("teachers", self.teachers), ("students", self.students)):
            for part in models:
                names = [share.name for share in list_corpora(part.corpus)]
                if part.objective.reads_rivals and not paired.intersection(names):
                    raise ValueError(
                        f"{where}: {part.name} ({part.objective.type}) reads rivals, and {', '.join(names) or GOLD} "
                        'has none; give it the corpus of a [[select]] with rule "pair"'
                    )
        return self

    @model_validator(mode="after")
    def _check_weights(self) -> PipelineConfig:
        weighted = {part.name for part in self.select if part.weighs}
        if self.selftraining is not None and self.selftraining.weighs:
            weighted.add(SELF_TRAINING)
        for where, models in (("teachers", self.teachers), ("students", self.students)):
            others = [
                f"{part.name} ({part.objective.type})"
                for part in models
                if not part.objective.weighs_rows and weighted.intersection(share.name for share in part.corpora)
            ]
            if others:
                raise ValueError(
                    f'{where}: rule "all" and `keep` give weights to rows, which '
                    f"{', '.join(others)} cannot use; take an objective that can: "
                    f"{', '.join(list_weighing_objectives())}"
                )
        return self
