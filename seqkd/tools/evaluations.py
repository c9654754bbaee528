"""The reader of the evaluations of a run, for `seqkd compare`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from seqkd.config.prepare import OWN_TEST
from seqkd.config.stages import EvaluateConfig
from seqkd.config.toml import load_stage
from seqkd.corpus.files import is_kept
from seqkd.corpus.manifest import MANIFEST, read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import CorpusError, InputError
from seqkd.metrics.registry import Outputs
from seqkd.metrics.results import EvaluationResult, read_result
from seqkd.metrics.tokenizers import Tokenizer, choose_tokenizer
from seqkd.pipeline.folders import OF
from seqkd.stages.evaluate.comparing import name_outputs, read_outputs
from seqkd.stages.evaluate.references import read_accepted, read_further_references
from seqkd.stages.prepare.references import accepted_file
from seqkd.text.languages import has_blanks

EVALUATIONS = "evaluations"

_SEED = re.compile(r"^(.+)\.seed(\d+)$")  # NAME.seed2 is the same student as NAME with another seed


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A finished evaluation of a model on a test set.

    Attributes:
        run: The run folder.
        model: The model's name.
        test: The test set's name.
        folder: The output folder of the evaluation.
        result: The numbers that were measured.
        config: The stage file.
        made_with: The fingerprint.
    """

    run: Path
    model: str
    test: str
    folder: Path
    result: EvaluationResult
    config: EvaluateConfig
    made_with: Mapping[str, Any]

    def outputs(self, decode: str, text: TestText) -> Outputs:
        """Read the outputs of a decode, with the references that they are measured against.

        Raises:
            CorpusError: The file is missing or damaged.
        """
        path = self.folder / name_outputs(decode, parallel=self.result.parallel)
        return Outputs(
            hypotheses=read_outputs(path, len(text.references), of="model"),
            references=text.references,
            sources=text.sources,
            further_references=text.further_references,
            accepted=text.accepted,
            tokenizer=choose_tokenizer(text.tokenizer, text.language),
            blanks=text.language is None or has_blanks(text.language),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TestText:
    """A test text.

    Attributes:
        path: The folder of the corpus.
        ids: The ids of the rows.
        sources: The text of the sources.
        references: The text of the first references.
        further_references: The further references of each row; empty if no row has any.
        accepted: All accepted translations of each row, if the corpus has them.
        tokenizer: The tokenizer setting of the evaluation.
        language: The language of the references, if it was given.
    """

    __test__ = False  # not a test, in spite of its name

    path: Path
    ids: list[int]
    sources: list[str]
    references: list[str]
    further_references: list[list[str]]
    accepted: list[list[str]] | None
    tokenizer: Literal["auto"] | Tokenizer
    language: str | None


class Run:
    """A pipeline's run folder.

    Args:
        path: The folder.

    Attributes:
        path: The folder.

    Raises:
        CorpusError: The folder is not a run folder, or no model in it has been evaluated.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / EVALUATIONS).is_dir():
            there = "has no evaluations/" if path.is_dir() else "no such folder"
            raise CorpusError(
                f"not a run whose models have been evaluated: {there}",
                where=str(path),
                expected="the run folder of a pipeline, such as runs/toy",
                hint="make PIPELINE=NAME report",
            )
        self._folders: dict[str, dict[str, Path]] = {}
        for folder in sorted((path / EVALUATIONS).iterdir()):
            if not is_kept(folder.name) and (folder / MANIFEST).is_file():
                model, _, test = folder.name.partition(OF)
                self._folders.setdefault(model, {})[test or OWN_TEST] = folder
        if not self._folders:
            raise CorpusError("holds no finished evaluation", where=str(path / EVALUATIONS), hint=_REPORT)

    @property
    def models(self) -> list[str]:
        """The names of the evaluated models; models that differ only in their seed are named once."""
        names = sorted(self._folders)
        return [name for name in names if not ((seed := _SEED.match(name)) and seed[1] in self._folders)]

    def has(self, model: str) -> bool:
        """Whether a model of this name has been evaluated."""
        return model in self._folders

    def models_beside(self, other: Run) -> list[str]:
        """Return the names of the models that another run lacks."""
        return [name for name in self.models if not other.has(name)]

    def is_planned(self, model: str) -> bool:
        """Whether the run has a model of this name, evaluated or not."""
        made = any((folder / model / "config.json").is_file() for folder in (self.path, *self.path.iterdir()))
        return made or (self.path / "config" / f"evaluate.{model}.toml").is_file()

    def seeds(self, model: str) -> dict[int, str]:
        """Return the evaluated models that differ only in their seed, by number; number 1 is the model of this name."""
        found = {1: model}
        for name in self._folders:
            seed = _SEED.match(name)
            if seed is not None and seed[1] == model:
                found[int(seed[2])] = name
        return dict(sorted(found.items()))

    def tests(self, model: str) -> list[str]:
        """Return the test sets that a model was evaluated on, the own one of the data set first."""
        return sorted(self._folders[model], key=lambda test: (test != OWN_TEST, test))

    def evaluation(self, model: str, test: str) -> Evaluation:
        """Read a finished evaluation.

        Raises:
            InputError: The model was not evaluated on this test set.
            CorpusError: A file is damaged or missing.
            ConfigError: The stage file is damaged or missing.
        """
        folder = self._folders[model].get(test)
        if folder is None:
            raise InputError(f"{model!r} was not evaluated on the test set {test!r}", where=str(self.path))
        return Evaluation(
            run=self.path,
            model=model,
            test=test,
            folder=folder,
            result=read_result(folder),
            config=load_stage(EvaluateConfig, self.path / "config" / f"evaluate.{folder.name}.toml"),
            made_with=read_manifest(folder).fingerprint,
        )


_REPORT = "evaluate the models: make PIPELINE=NAME report"


def list_models(*runs: Run) -> str:
    """List the models of runs, in words."""
    return "; ".join(f"{run.path} has {', '.join(run.models)}" for run in dict.fromkeys(runs))


def check_models(runs: tuple[Run, Run], models: tuple[str, str]) -> None:
    """Check that the first model is in the first run, and the second one in the second.

    Raises:
        InputError: A model is not there; the message lists the models that are there.
    """
    for run, model in zip(runs, models, strict=True):
        if run.has(model):
            continue
        if run.is_planned(model):
            raise InputError(f"the model {model!r} has not been evaluated", where=str(run.path), hint=_REPORT)
        elsewhere = [other for other in runs if other is not run and other.has(model)]
        raise InputError(
            f"no evaluated model has the name {model!r}",
            where=str(run.path),
            expected=f"the name of a model of the run: {list_models(*runs)}",
            hint=f"{model!r} is in {elsewhere[0].path}; the first name must be that of a model of the first run"
            if elsewhere
            else "",
        )


def read_text(evaluation: Evaluation) -> TestText:
    """Read the test text of an evaluation.

    Raises:
        CorpusError: The text is missing or damaged, or has been made again since the evaluation.
    """
    path = evaluation.config.corpus
    corpus = Corpus.open(path, "corpus")
    if evaluation.made_with.get("inputs", {}).get("corpus") != corpus.manifest.digest():
        raise CorpusError(
            f"differs from the test text that {evaluation.model!r} was evaluated on", where=str(path), hint=_REPORT
        )
    ids: list[int] = []
    sources: list[str] = []
    references: list[str] = []
    for table in corpus.tables(["id", "source", "target"]):
        ids += table.column("id").to_pylist()
        sources += table.column("source").to_pylist()
        references += table.column("target").to_pylist()
    return TestText(
        path=path,
        ids=ids,
        sources=sources,
        references=references,
        further_references=read_further_references(corpus),
        accepted=read_accepted(accepted_file(path), ids) if "accepted" in evaluation.made_with["inputs"] else None,
        tokenizer=evaluation.config.tokenizer,
        language=corpus.manifest.extra.get("target_language"),
    )


def read_shared_text(first: Evaluation, second: Evaluation) -> TestText:
    """Read the test text of two evaluations, which must be the same. Vocabularies may differ.

    Raises:
        InputError: The texts differ, or have only one row. The message says in how many rows they differ.
        CorpusError: A text is missing or damaged.
    """
    text = read_text(first)
    digests = [evaluation.made_with.get("inputs", {}).get("corpus") for evaluation in (first, second)]
    if digests[0] != digests[1]:
        _check_same(text, read_text(second))
    if len(text.references) < 2:
        raise InputError(
            f"significance cannot be tested on a test text of {len(text.references)} row",
            where=str(text.path),
            expected="at least two rows",
        )
    return text


def _list_references(text: TestText) -> list[list[str]]:
    """List all references of each row."""
    if not text.further_references:
        return [[reference] for reference in text.references]
    return [[first, *more] for first, more in zip(text.references, text.further_references, strict=True)]


def _check_same(text: TestText, other: TestText) -> None:
    if len(text.references) != len(other.references):
        what = f"{len(text.references):,} and {len(other.references):,} rows"
    else:
        sides: dict[str, tuple[Sequence[object], Sequence[object]]] = {
            "sources": (text.sources, other.sources),
            "references": (_list_references(text), _list_references(other)),
        }
        counts = {name: sum(a != b for a, b in zip(*both, strict=True)) for name, both in sides.items()}
        if text.accepted != other.accepted and None not in (text.accepted, other.accepted):
            assert text.accepted is not None
            assert other.accepted is not None
            counts["accepted translations"] = sum(a != b for a, b in zip(text.accepted, other.accepted, strict=True))
        elif text.accepted != other.accepted:
            counts["accepted translations"] = len(text.references)
        rows = f"of {len(text.references):,} rows"
        named = [f"{name} differ in {count:,} {rows}" for name, count in counts.items() if count]
        if not named:
            return
        what = ", ".join(named)
    raise InputError(
        f"the test texts differ: {what}",
        where=f"{text.path} and {other.path}",
        expected="outputs for the same sentences, in the same order",
        hint="compare models that were evaluated on one test text",
    )
