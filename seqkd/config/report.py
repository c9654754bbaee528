"""The stage file of `report`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from seqkd.config.search import Name, Strict


class NamedPath(Strict):
    """A named input of the report and its path."""

    name: Name
    path: Path


class NamedEvaluations(NamedPath):
    """A further test set, and the evaluations on it."""

    evaluations: tuple[NamedPath, ...]


class StudentRounds(Strict):
    """A student that is made again in each round."""

    name: Name
    evaluations: tuple[Name, ...] = Field(..., description="one for each round, in order")


class SeedRuns(Strict):
    """A model that was trained with several seeds."""

    name: Name
    evaluations: tuple[Name, ...] = Field(..., min_length=2, description="one for each seed, in order")


class StartedModel(Strict):
    """A model that starts from another one."""

    name: Name
    start: Name = Field(..., description="the evaluation of the model that it starts from")
    known: tuple[Name, ...] = Field(..., description="test sets of the data sets on which that model was trained")


class SyntheticPath(NamedPath):
    """A corpus of back-translations, and the model that wrote its sources."""

    model: Path


class ComparedOutputs(NamedPath):
    """The evaluation of a model with whose outputs those of all models are compared, and its test corpus."""

    corpus: Path


class LanguageText(Strict):
    """A language that targets may be in."""

    name: Name
    text: Path = Field(..., description="text of this language alone, whose words give the probabilities")
    test: Path | None = Field(None, description="test text of this language alone, with which outputs are compared")


class PseudoPath(NamedPath):
    """A corpus of monolingual sources, and the model that wrote its targets."""

    model: Path | None = Field(None, description="left out for an ensemble, or a source of k-best lists")


class ReportConfig(Strict):
    """Settings of the report on all results of a pipeline."""

    pipeline: str
    title: str = ""
    prepared: Path
    corpora: tuple[NamedPath, ...] = Field((), description="distilled corpora")
    distill: tuple[NamedPath, ...] = Field((), description="k-best lists")
    soft_targets: tuple[NamedPath, ...] = Field((), description="soft targets, for their cost")
    models: tuple[NamedPath, ...] = Field((), description="model folders, for training curves")
    evaluations: tuple[NamedPath, ...] = Field((), description="output folders of `evaluate`, same names as models")
    tests: tuple[NamedEvaluations, ...] = Field((), description="evaluations on further test sets")
    teachers: tuple[Name, ...] = Field((), description="the evaluation of each round's teacher; () for one round")
    rounds: tuple[StudentRounds, ...] = Field((), description="students that are made again in each round")
    seeds: tuple[SeedRuns, ...] = Field((), description="models that were trained with several seeds")
    backtranslation: tuple[SyntheticPath, ...] = ()
    selftraining: tuple[PseudoPath, ...] = ()
    starts: tuple[StartedModel, ...] = Field(
        (), description="models that start from another one, with several test sets"
    )
    grids: tuple[tuple[Name, ...], ...] = Field(
        (), description="models among them that differ in one setting of the objective, in its order"
    )
    baselines: tuple[tuple[str, str], ...] = Field(
        (), description="a student, and the student that its gain is measured against"
    )
    edges: tuple[tuple[str, str], ...] = Field((), description="the pipeline's graph, for its drawing")
    shared: tuple[NamedPath, ...] = Field(
        (), description="training corpora of other data sets that share the sources of `prepared`, by `source_row`"
    )
    agreement: ComparedOutputs | None = Field(
        None, description="the evaluation with whose outputs the outputs of all models are compared"
    )
    languages: tuple[LanguageText, ...] = Field(
        (), description="the languages of the targets, if there are several; at least two"
    )
    samples: int = Field(8, ge=0)
