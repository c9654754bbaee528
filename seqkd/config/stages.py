"""The stage files as pydantic models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    model_validator,
)

from seqkd.config.metrics import EvaluationMetrics, ValidatingMetric
from seqkd.config.models import (
    HookConfig,
    ModelConfig,
    ObjectiveConfig,
    check_objective,
    default_model,
    default_objective,
    with_objective,
)
from seqkd.config.prepare import BitextConfig as BitextConfig  # other modules import these from here
from seqkd.config.prepare import CleaningConfig as CleaningConfig
from seqkd.config.prepare import EncodeConfig as EncodeConfig
from seqkd.config.prepare import FurtherTestConfig as FurtherTestConfig
from seqkd.config.prepare import FurtherText as FurtherText
from seqkd.config.prepare import FurtherVocabularyConfig as FurtherVocabularyConfig
from seqkd.config.prepare import Language as Language
from seqkd.config.prepare import MonolingualConfig as MonolingualConfig
from seqkd.config.prepare import PrepareConfig as PrepareConfig
from seqkd.config.prepare import SampleConfig as SampleConfig
from seqkd.config.prepare import VocabularyConfig as VocabularyConfig
from seqkd.config.prepare import one_or_several as one_or_several
from seqkd.config.prepare import put_in_list as put_in_list
from seqkd.config.report import NamedPath
from seqkd.config.report import ReportConfig as ReportConfig
from seqkd.config.search import Beams, DecodedTogether, Name, SearchPrecision, Strict, check_beams, check_decode
from seqkd.config.search import ParallelConfig as ParallelConfig
from seqkd.config.search import SearchConfig as SearchConfig
from seqkd.config.select import SelectSettings
from seqkd.config.sources import SourceConfig
from seqkd.metrics.tokenizers import TokenizerChoice
from seqkd.models.initialiser import Initialiser
from seqkd.models.registry import Stack
from seqkd.text.noise import NoiseSettings
from seqkd.training.groups import name_measure, split_measure

Precision = Literal["float32", "bf16", "fp16"]

# --- train ------------------------------------------------------------------------------------------------------


class BestBy(Strict):
    """The metric on one group that chooses the best validation of a model of several data sets."""

    metric: ValidatingMetric
    group: Name = Field(..., description="a data set")


def _name_or_table(value: Any) -> str:
    return "table" if isinstance(value, (dict, BestBy)) else "name"


class TrainingConfig(Strict):
    """Settings of the training loop. Batches are counted in target tokens, end of sentence included."""

    max_updates: int = Field(..., ge=1)
    batch_tokens: int = Field(4096, ge=16)
    accumulate: int = Field(1, ge=1)
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(5e-4, gt=0.0)
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(0.0, ge=0.0)
    schedule: Literal["inverse_sqrt", "cosine"] = "inverse_sqrt"
    warmup_updates: int = Field(4000, ge=1)
    clip_norm: float = Field(1.0, ge=0.0, description="0: no clipping")
    precision: Literal["auto"] | Precision = Field(
        "auto", description="auto: bf16 if the device multiplies it in hardware"
    )
    validate_every: int = Field(500, ge=1, description="updates between validations; each also saves a checkpoint")
    valid_bleu: bool = Field(True, description="measure greedy BLEU on the validation corpus besides NLL")
    tokenizer: TokenizerChoice = Field("auto", description="tokenizer of that BLEU; auto: by the target's language")
    best_by: Annotated[
        Annotated[ValidatingMetric, Tag("name")] | Annotated[BestBy, Tag("table")], Discriminator(_name_or_table)
    ] = Field("nll", description="a metric, or a table with a metric and the group on which it is measured")
    patience: int = Field(0, ge=0, description="validations without improvement before stopping; 0: never")
    average: int = Field(
        1, ge=1, description="number of checkpoints that are averaged: the best one and the latest before it"
    )
    window: int = Field(100_000, ge=1, description="rows shuffled and sorted together")
    seed: int = 1
    keep: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="updates whose weights are kept; 0: the initial weights"
    )
    keep_state: bool = Field(False, description="keep the optimiser and the checkpoints of a finished model")

    @model_validator(mode="after")
    def _check_keep(self) -> TrainingConfig:
        if self.keep and max(self.keep) > self.max_updates:
            raise ValueError(f"keep names update {max(self.keep):,}, but max_updates is {self.max_updates:,}")
        return self

    @model_validator(mode="after")
    def _check_best_by(self) -> TrainingConfig:
        if split_measure(self.chooses_by)[0] == "bleu" and not self.valid_bleu:
            raise ValueError("best_by is bleu, but valid_bleu is false")
        return self

    @property
    def chooses_by(self) -> str:
        """The name of the measure that chooses the best validation: a metric, or `METRIC@GROUP`."""
        given = self.best_by
        return given if isinstance(given, str) else name_measure(given.metric, given.group)


Weight = Annotated[float, Field(gt=0.0, le=1000.0)]


Noise = Annotated[
    NoiseSettings | None,
    Field(description="words of the sources that are dropped, blanked and moved, drawn anew in each epoch"),
]
Updates = Annotated[int, Field(ge=1, description="updates of each block on this corpus")]


class WeightedPath(Strict):
    """A corpus among several."""

    path: Path
    weight: Weight = Field(1.0, description="how often an epoch repeats each row, on average")
    group: Name | None = Field(None, description="its data set, if `prepared` holds several")
    noise: Noise = None


CorpusPaths = Annotated[
    Annotated[Path, Tag("one")] | Annotated[tuple[WeightedPath, ...], Field(min_length=1), Tag("several")],
    Discriminator(one_or_several),
    BeforeValidator(put_in_list),
]


CorpusTemperature = Annotated[
    float | None,
    Field(
        ge=1.0,
        le=1000.0,
        description="in place of weights: groups are sampled in proportion to their share of the rows to the power of "
        "1 / temperature",
    ),
]


def with_blocks(values: Any) -> Any:
    """Fill in no corpus in a table that has `alternate` instead."""
    return {"corpus": None, **values} if isinstance(values, dict) and "alternate" in values else values


class BlockPath(Strict):
    """A corpus on which a student is trained for a block of updates, in turn with others."""

    corpus: Path
    updates: Updates
    group: Name | None = Field(None, description="its data set, if `prepared` holds several")


def _from_name(value: Any) -> Any:
    return {"model": str(value)} if isinstance(value, (str, Path)) else value


def _to_name(value: Initialiser | None) -> Any:
    if value is None or not value.choices:
        return None if value is None else value.model
    return {"model": value.model, **value.choices}


def check_start(model: ModelConfig, init_from: Initialiser | None) -> None:
    """Raise ValueError if the layers to start from do not fit a model."""
    stacks: tuple[Stack, ...] = ("encoder", "decoder")
    for stack in stacks if init_from is not None else ():
        own = getattr(model.settings, f"{stack}_layers", None)
        problem = None if own is None or init_from is None else init_from.problem(stack, own)
        if problem is not None:
            raise ValueError(problem)


InitFrom = Annotated[Initialiser | None, BeforeValidator(_from_name), PlainSerializer(_to_name)]
"""A model to start from: its folder or name alone, or a table."""


class TrainConfig(Strict):
    """Settings that turn one or several corpora and an architecture into a trained model."""

    role: Literal["teacher", "student"] = "student"
    prepared: Path = Field(..., description="output of `prepare`: vocabulary and validation corpus")
    corpus: CorpusPaths | None = Field(..., description="training corpus, gold or distilled, or several with weights")
    corpus_temperature: CorpusTemperature = None
    teachers: dict[Name, tuple[Path, ...]] = Field(
        {}, description="models that run beside the student by group, in place of objective.teachers"
    )
    soft_targets: dict[Name, Path] = Field(
        {}, description="outputs of `distill --soft-targets` by group, in place of objective.soft_targets"
    )
    alternate: tuple[BlockPath, ...] | None = Field(
        None, description="in place of `corpus`: corpora in turn, each for a block of updates"
    )
    model: ModelConfig = Field(default_factory=default_model)
    objective: ObjectiveConfig = Field(default_factory=default_objective)
    training: TrainingConfig
    init_from: InitFrom = Field(None, description="a model folder whose weights training starts from, or a table")
    hooks: tuple[HookConfig, ...] | None = Field(None, min_length=1, description="called by the loop, in this order")
    reverse: bool = Field(False, description="learn to translate targets into sources")

    _fill_in_objective = model_validator(mode="before")(with_objective)
    _fill_in_corpus = model_validator(mode="before")(with_blocks)

    @model_validator(mode="after")
    def _check_model(self) -> TrainConfig:
        check_objective(self.model, self.objective)
        check_start(self.model, self.init_from)
        if self.reverse and self.objective.reads_rivals:
            raise ValueError(f"reverse: objective {self.objective.type} reads rivals, which only targets have")
        return self

    @model_validator(mode="after")
    def _check_teachers(self) -> TrainConfig:
        for term in self.objective.terms:
            stored = self.soft_targets and term.record.needs.soft_targets
            given = self.teachers or stored or (term.asking is not None and term.asking.teachers)
            if term.asking is not None and term.taught is None and not given:
                ways = "`teachers` or `soft_targets`" if term.record.needs.soft_targets else "`teachers`"
                raise ValueError(f"objective: {term.type} needs {ways}")
        blocks = None if self.alternate is None else [str(block.corpus) for block in self.alternate]
        check_blocks(self.corpus, blocks, self.corpus_temperature)
        check_mix(self.objective, [str(part.path) for part in self.corpora], mixed=self.mixed)
        return self

    @model_validator(mode="after")
    def _check_group_teachers(self) -> TrainConfig:
        for name, given in (("teachers", self.teachers), ("soft_targets", self.soft_targets)):
            missing = [group for group in self.groups if group not in given]
            if not given:
                continue
            if self.objective.teachers or not self.objective.live:
                what = (
                    "names teachers, too" if self.objective.teachers else "takes no distributions of teachers by group"
                )
                raise ValueError(f"{name}: the objective {what}; leave out one or the other")
            if len(self.groups) < 2:
                raise ValueError(f"{name}: are for several groups; give objective.{name}")
            if missing:
                raise ValueError(f"{name}: none for the group {', '.join(missing)}; give some for each group")
        states = [term.type for term in self.objective.terms if term.record.needs.teacher_states]
        if self.teachers and states:
            raise ValueError(f"teachers: {', '.join(states)} compares states, for which all groups need one teacher")
        if self.teachers and self.soft_targets:
            raise ValueError("teachers, soft_targets: give one or the other")
        if self.soft_targets and len(self.groups) < len(self.corpora):
            raise ValueError("soft_targets: belong to one corpus of each group, but a group has several corpora")
        return self

    @model_validator(mode="after")
    def _check_groups(self) -> TrainConfig:
        groups = {part.group for part in self.corpora}
        if None in groups and len(groups) > 1:
            raise ValueError("corpus: some corpora have a `group` and some have none; give it to all of them")
        weighted = any(part.weight != 1.0 for part in self.corpora)
        check_temperature(self.corpus_temperature, weighted=weighted, several=len(groups) > 1)
        group = split_measure(self.training.chooses_by)[1]
        if group and (group not in groups or len(groups) < 2):
            raise ValueError(f"training.best_by.group: {group!r} is not one of several groups of `corpus`")
        return self

    @property
    def corpora(self) -> tuple[WeightedPath, ...]:
        """All training corpora."""
        if self.alternate is not None:
            return tuple(WeightedPath(path=block.corpus, group=block.group) for block in self.alternate)
        return (WeightedPath(path=self.corpus),) if isinstance(self.corpus, Path) else self.corpus or ()

    @property
    def mixed(self) -> bool:
        """Whether there are several corpora, or one with a weight or noise."""
        return is_mixed(self.corpora)

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups of the corpora, each once; empty if the model has one data set with a vocabulary of its own."""
        return tuple(dict.fromkeys(part.group for part in self.corpora if part.group is not None))


def check_temperature(temperature: float | None, *, weighted: bool, several: bool) -> None:
    """Raise ValueError if a temperature is given for corpora that have weights, or that are of one data set."""
    if temperature is not None and weighted:
        raise ValueError("corpus_temperature: the corpora have weights, too; leave out one or the other")
    if temperature is not None and not several:
        raise ValueError("corpus_temperature: all corpora are of one data set; leave it out, or give `weight`")


def is_mixed(corpora: Sequence[WeightedPath] | Sequence[Any]) -> bool:
    """Whether there are several corpora, or one with a weight or noise."""
    return len(corpora) > 1 or any(part.weight != 1.0 or part.noise is not None for part in corpora)


def check_blocks(corpus: object, blocks: Sequence[str] | None, temperature: float | None) -> None:
    """Raise ValueError unless there is either a corpus or several blocks."""
    if (corpus is None) == (blocks is None):
        raise ValueError(
            "give either `corpus` or `alternate`: corpora with weights are mixed in each batch, and blocks of "
            "`alternate` follow one another"
        )
    if blocks is not None and len(blocks) < 2:
        raise ValueError("alternate: has one block, but blocks alternate; add another block, or give `corpus` instead")
    if blocks is not None and temperature is not None:
        raise ValueError("corpus_temperature: corpora in turn have their shares by `updates`; leave it out")


def check_mix(objective: ObjectiveConfig, names: Sequence[str], *, mixed: bool) -> None:
    """Raise ValueError if corpora cannot be mixed or alternate, or not for this objective."""
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ValueError(f"corpus: {', '.join(twice)} is listed twice; give it a larger weight, or a longer block")
    if mixed and objective.soft_targets is not None:
        raise ValueError(
            "objective.soft_targets: hold each row of one corpus once, but the student has several corpora, a "
            "weight or noise; let teachers run beside the student instead"
        )


# --- distill, select, evaluate ----------------------------------------------------------------------------


class DistillConfig(Strict):
    """Settings that turn a corpus into k-best lists of teachers or another source. Several teachers are an ensemble."""

    models: tuple[Path, ...] = ()
    corpus: Path
    search: SearchConfig = SearchConfig(beam=5, nbest=5)
    batch_tokens: DecodedTogether = Field(
        4000, description="source tokens, including padding, that are decoded together; auto: by the device"
    )
    precision: SearchPrecision = "auto"
    workers: int = Field(0, ge=0, description="processes on CPU; 0: one for each core")
    source: SourceConfig | None = Field(None, description="the source of the lists in place of models")
    prepared: Path | None = Field(
        None,
        description="output of `prepare` that the corpus comes from: its vocabulary encodes the texts that `source` "
        "writes, or models with another vocabulary",
    )

    @model_validator(mode="after")
    def _check_either(self) -> DistillConfig:
        if bool(self.models) == (self.source is not None):
            raise ValueError("give either `models` or `source`")
        if self.source is not None and self.prepared is None:
            raise ValueError("`source` needs `prepared`, whose vocabulary encodes the texts of the source")
        return self


class SoftOptions(Strict):
    """The part of a teacher's distributions that is stored."""

    top_k: int | None = Field(
        None, ge=1, description="number of most likely ids that are kept; 16 unless `samples` is given"
    )
    samples: int | None = Field(
        None, ge=1, le=256, description="number of ids drawn, with replacement, in place of top_k"
    )
    temperature: float = Field(
        1.0, gt=0.0, allow_inf_nan=False, description="the temperature of the students' objective"
    )
    batch_tokens: int = Field(4000, ge=1, description="tokens, including padding, that are processed together")
    precision: Literal["auto"] | Precision = "auto"
    workers: int = Field(0, ge=0, description="processes on CPU; 0: one for each core")

    @model_validator(mode="before")
    @classmethod
    def _fill_in_top_k(cls, values: Any) -> Any:
        if isinstance(values, dict) and "top_k" not in values and "samples" not in values:
            return {**values, "top_k": 16}
        return values

    @model_validator(mode="after")
    def _check_either(self) -> SoftOptions:
        if (self.top_k is None) == (self.samples is None):
            raise ValueError("give either top_k or samples")
        return self


class SoftTargetsConfig(SoftOptions):
    """Settings of soft targets: the teachers' distributions at the target positions of a corpus."""

    models: tuple[Path, ...] = Field(..., min_length=1, description="several are averaged as an ensemble")
    corpus: Path = Field(..., description="gold (references) or distilled (outputs)")
    seed: int = Field(1, ge=0, description="seed of the samples; together with the row id it determines every draw")


class SelectConfig(SelectSettings):
    """Settings that turn k-best lists into a distilled corpus."""

    kbest: Path
    gold: Path = Field(..., description="the corpus that was decoded: sources and references")
    prepared: Path = Field(
        ..., description="output of `prepare`, whose vocabulary is recorded; nothing is encoded again"
    )
    reverse: bool = Field(
        False, description="back-translation: `gold` is monolingual text; hypotheses become sources, the text targets"
    )
    tag: str = Field("", pattern=r"^\S*$", description="the piece that such sources start with; empty: no tag")

    @model_validator(mode="after")
    def _check_reverse(self) -> SelectConfig:
        if self.tag and not self.reverse:
            raise ValueError("tag: is for sources that a model wrote; set `reverse = true`")
        if self.reverse and self.reads_references:
            raise ValueError("reverse: the rule or a filter reads references, and monolingual text has none")
        return self


TargetRows = Annotated[int, Field(ge=1, description="the first rows of the corpora that are measured")]


class EvaluateConfig(Strict):
    """Settings of the evaluation of a model on a test corpus."""

    name: Name
    model: Path
    ensemble: tuple[Path, ...] = Field((), description="further models that decode together with `model`")
    role: Literal["teacher", "student"]
    corpus: Path = Field(..., description="test corpus")
    trained_on: str = Field("gold", description="name of the training corpus, for the report")
    beams: Beams = Field((1, 5), description="beams by which a left-to-right model is decoded")
    search: SearchConfig = SearchConfig()
    decode: tuple[ParallelConfig, ...] = Field(
        (), description="decodes of a model that writes all positions at once; if left out, one with the defaults"
    )
    rescore_with: Path | None = Field(None, description="the model that chooses if a decode has rescore = true")
    speed_against: Path | None = Field(
        None,
        description="a model that is timed in turn with this one, at the largest beam; a "
        "teacher is compared with itself",
    )
    baseline: Path | None = Field(
        None, description="finished evaluation on the same test corpus; differences from it are tested for significance"
    )
    batch_tokens: int = Field(4000, ge=1)
    precision: SearchPrecision = "auto"
    threads: int = Field(1, ge=0, description="threads of torch and the kernels on a CPU; 0: the default of torch")
    tokenizer: TokenizerChoice = Field(
        "auto", description="tokenizer of BLEU; auto: by the test corpus' target language"
    )
    metrics: EvaluationMetrics = None
    timed: bool = Field(True, description="whether speed is measured")
    targets: tuple[NamedPath, ...] = Field(
        (), description="training corpora; the model's log-probability of their targets is measured"
    )
    target_rows: TargetRows = 500

    @model_validator(mode="after")
    def _check_decodes(self) -> EvaluateConfig:
        check_beams(self.search, self.beams)
        check_decode(self.decode)
        if self.rescore_with is None and any(way.rescore for way in self.decode):
            raise ValueError("rescore = true needs `rescore_with`, the model that chooses")
        return self
