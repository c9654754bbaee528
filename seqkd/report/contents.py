"""The contents of the report as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from seqkd.config.prepare import OWN_TEST
from seqkd.config.report import StartedModel
from seqkd.corpus.cost import Cost, total
from seqkd.metrics.lengths import LengthHistogram
from seqkd.metrics.results import DecodeResult, EvaluationResult
from seqkd.report.languages import LanguageEntry
from seqkd.report.timelines import Timeline

NONE: Mapping[str, dict[str, Any]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusEntry:
    """A training corpus.

    Attributes:
        name: "gold" or the name of the distilled corpus.
        rule: The rule that chose the targets; "reference" for gold.
        rows: The number of rows.
        target_tokens: Target subwords in all rows.
        mean_length: Mean target length in subwords.
        complexity: C(d) in nats (Zhou et al. 2020), or None if there was nothing to align.
        faithfulness: F(d) in nats, 0 for gold.
        equal_reference: Share of rows, 0 to 1, whose target is the reference; None for gold.
        rejected: Rows left out, by reason.
        unknown_rows: Rows whose target contains the unknown piece.
        lengths: Target lengths.
    """

    name: str
    rule: str
    rows: int
    target_tokens: int
    mean_length: float
    complexity: float | None
    faithfulness: float | None
    equal_reference: float | None
    rejected: dict[str, int]
    unknown_rows: int
    lengths: LengthHistogram


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillEntry:
    """A decode of the training corpus.

    Attributes:
        rejected: Rows that have no hypothesis, and other counts of rows, by reason.
    """

    name: str
    rows: int
    rejected: dict[str, int]
    sentences_per_second: float | None
    beam: int | None
    nbest: int | None
    device: str
    precision: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One validation. Numbers that were not measured are None."""

    update: int
    train_loss: float | None
    valid_nll: float | None
    valid_bleu: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleText:
    """One target of a sample: runs of words, each with whether it differs from the reference."""

    name: str
    words: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One training row and its targets in the distilled corpora."""

    id: int
    source: str
    reference: str
    targets: tuple[SampleText, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundEntry:
    """A student in one round.

    Attributes:
        student: The name of the student in the first round.
        number: The round, from 1.
        model: The name of the evaluated model.
        teacher: The name of the teacher of the round.
    """

    student: str
    number: int
    model: str
    teacher: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticEntry:
    """A corpus of monolingual text and of the other side, which a model wrote: back-translation or self-training.

    Attributes:
        name: The name of the corpus.
        written: The side that the model wrote.
        rows: The number of rows.
        ratio: Rows for each row of gold text.
        tag: The piece that sources start with; "" for none.
        rejected: Rows left out, by reason.
        source_length: Mean source length in subwords, the tag counted.
        target_length: Mean target length in subwords.
        bleu: Greedy BLEU of the model on the validation text, whose sides are exchanged for a reverse model.
    """

    name: str
    written: Literal["source", "target"]
    rows: int
    ratio: float
    tag: str
    rejected: dict[str, int]
    source_length: float
    target_length: float
    bleu: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEntry:
    """The cost of a folder.

    Attributes:
        stage: The stage that made it.
        name: The name in the pipeline.
        cost: The cost over all attempts and workers.
    """

    stage: str
    name: str
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The contents of a report.

    Attributes:
        pipeline: The name of the pipeline.
        title: The title of the pipeline, which may be empty.
        corpora: The training corpora, gold first.
        distill: The decodes of training corpora.
        models: The evaluated models, in the order of the pipeline.
        agreement_with: The model with whose outputs the outputs of the others are compared; "" for none.
        rounds: Students that were made again in each round, each with all its rounds; empty for one round.
        synthetic: The corpora of back-translation and self-training.
        tests: Evaluations on further test sets, by the name of the set and that of the model.
        baselines: For each student the student that its gain is measured against, by name.
        curves: The validations of each model that was trained here.
        timelines: The selective distillation of each data set of each model.
        samples: Training rows with their targets.
        languages: The languages of the corpora and of the outputs of models; empty if no languages are named.
        shared: Training rows with their targets in all data sets that share their sources.
        starts: The models that start from another one, by name, if there are several test sets.
        grids: Models among them that differ in one setting of the objective, in its order.
        edges: The edges of the pipeline's graph.
        kinds: The kind of each node of the graph: corpus, kbest, model or other.
        aligned_rows: Rows that complexity and faithfulness were computed on.
        splits: The number of rows of train, valid and test.
        runs: For models that were trained with several seeds, the evaluations of each seed, in order.
        seeds: Seeds of the training runs, as far as they are known.
        costs: The costs of the folders, as far as they were recorded, in the pipeline's order.
    """

    pipeline: str
    title: str
    corpora: tuple[CorpusEntry, ...]
    distill: tuple[DistillEntry, ...]
    models: tuple[EvaluationResult, ...]
    agreement_with: str
    rounds: tuple[RoundEntry, ...]
    synthetic: tuple[SyntheticEntry, ...]
    tests: dict[str, dict[str, EvaluationResult]]
    runs: dict[str, tuple[str, ...]]
    baselines: dict[str, str]
    curves: dict[str, tuple[CurvePoint, ...]]
    samples: tuple[Sample, ...]
    timelines: tuple[Timeline, ...] = ()
    languages: tuple[LanguageEntry, ...] = ()
    shared: tuple[Sample, ...] = ()
    starts: dict[str, StartedModel] = field(default_factory=dict)
    grids: tuple[tuple[str, ...], ...] = ()
    edges: tuple[tuple[str, str], ...]
    kinds: dict[str, str]
    aligned_rows: int
    splits: dict[str, int]
    seeds: tuple[int, ...]
    costs: tuple[CostEntry, ...]

    def to_json(
        self, pooled: Sequence[dict[str, Any]] = (), further: Mapping[str, dict[str, Any]] = NONE
    ) -> dict[str, Any]:
        """Return the contents of report.json. Later versions keep these keys and may add others.

        Args:
            pooled: Models that were trained with several seeds.
            further: Further keys of models, by the name of the model.
        """
        synthetic: dict[str, list[dict[str, Any]]] = {}
        for entry in self.synthetic:
            kind, bleu = ("backtranslation", "reverse_bleu") if entry.written == "source" else ("selftraining", "bleu")
            value = {"name": entry.name, "rows": entry.rows, "ratio": entry.ratio, bleu: entry.bleu}
            synthetic.setdefault(kind, []).append(value)
        return {
            "pipeline": self.pipeline,
            "corpora": [_corpus_json(corpus) for corpus in self.corpora],
            "distill": [
                {
                    "name": entry.name,
                    "sentences_per_second": entry.sentences_per_second,
                    "beam": entry.beam,
                    "nbest": entry.nbest,
                    "device": entry.device,
                    "counts": entry.rejected,
                }
                for entry in self.distill
            ],
            "models": [
                model_json(model)
                | {"baseline": self.baselines.get(model.name), "gain": self.gains(model)}
                | {"significance": self.significance(model)}
                | {"round": next((entry.number for entry in self.rounds if entry.model == model.name), None)}
                | {"tests": {name: evaluation_json(result) for name, result in self.results(model).items()}}
                | further.get(model.name, {})
                for model in self.models
            ],
            **({"agreement_with": self.agreement_with} if self.agreement_with else {}),
            **synthetic,
            **({"languages": [entry.to_json() for entry in self.languages]} if self.languages else {}),
            **({"pooled": list(pooled)} if pooled else {}),
            **({"selective": [line.to_json() for line in self.timelines]} if self.timelines else {}),
            **({"cost": self._cost_json()} if self.costs else {}),
        }

    def _cost_json(self) -> dict[str, Any]:
        return {
            "stages": [{"stage": entry.stage, "name": entry.name, **entry.cost.to_json()} for entry in self.costs],
            "total": total(entry.cost for entry in self.costs).to_json(),
        }

    def results(self, model: EvaluationResult) -> dict[str, EvaluationResult]:
        """Return the evaluations of a model by test set, the own one of the data set first."""
        further = {name: found[model.name] for name, found in self.tests.items() if model.name in found}
        return {OWN_TEST: model, **further}

    def gains(self, model: EvaluationResult) -> dict[str, float]:
        """Return the gains of a model over its baseline, for decodes that both have."""
        baseline = next((other for other in self.models if other.name == self.baselines.get(model.name)), None)
        theirs = {} if baseline is None else baseline.decodes
        return {name: found.score - theirs[name].score for name, found in model.decodes.items() if name in theirs}

    def significance(self, model: EvaluationResult) -> dict[str, dict[str, Any]]:
        """Return the tests of the gains by decode and metric, without decodes that were not compared."""
        if not model.compared_with or model.compared_with != self.baselines.get(model.name):
            return {}
        return {
            name: {metric: asdict(tested) for metric, tested in found.significance.items()}
            for name, found in model.decodes.items()
            if found.significance
        }


def _corpus_json(corpus: CorpusEntry) -> dict[str, Any]:
    return {
        "name": corpus.name,
        "rows": corpus.rows,
        "target_tokens": corpus.target_tokens,
        "complexity": corpus.complexity,
        "faithfulness": corpus.faithfulness,
    }


def model_json(model: EvaluationResult) -> dict[str, Any]:
    """Return an entry of `models` without gains: the model, and its evaluation on the own test text of the data set."""
    return {
        "name": model.name,
        "role": model.role,
        "arch": model.arch,
        "corpus": model.trained_on,
        "objective": model.objective,
        "parameters": model.parameters,
        **evaluation_json(model),
    }


def evaluation_json(model: EvaluationResult) -> dict[str, Any]:
    """Return the numbers of an evaluation.

    Single numbers are those of the largest beam or the last decode. The numbers of sentences decoded one at a time
    (`latency_ms` and keys that end in `batch1`) are those of the first decode. `decodes` has all numbers.
    """
    best, first = model.decodes[model.quality], model.decodes[model.quick]
    entry = {
        "bleu": {name: result.bleu for name, result in model.decodes.items() if result.bleu is not None},
        "chrf": best.chrf,
        "signature": model.signatures.get("bleu", ""),
        "perplexity": model.perplexity,
        "perplexity_per_character": model.perplexity_per_character,
        "pieces": model.pieces,
        "mode_probability": model.mode_probability,
        "too_long": model.too_long,
        "sentences_per_second": best.speed and best.speed.sentences_per_second,
        "speedup": best.speedup,
        "latency_ms": first.speed and first.speed.latency_ms,
        "sentences_per_second_batch1": first.speed and first.speed.sentences_per_second_batch1,
        "speedup_batch1": first.speedup_batch1,
        "decodes": {name: _decode_json(result) for name, result in model.decodes.items()},
        "device": model.device,
        "load": None if model.load is None else asdict(model.load),
    }
    if best.valid is not None:
        entry["valid"] = best.valid
    if model.target_logprobs:
        entry["target_logprobs"] = model.target_logprobs
        entry["target_rows"] = model.target_rows
    return entry


def _decode_json(result: DecodeResult) -> dict[str, Any]:
    speed = result.speed
    entry: dict[str, Any] = {
        "bleu": result.bleu,
        "chrf": result.chrf,
        "sentences_per_second": speed and speed.sentences_per_second,
        "batch_tokens": speed and speed.batch_tokens,
        "speedup": result.speedup,
        "latency_ms": speed and speed.latency_ms,
        "sentences_per_second_batch1": speed and speed.sentences_per_second_batch1,
        "speedup_batch1": result.speedup_batch1,
        "timings_agreed": speed and speed.agreed,
    }
    if result.valid is not None:
        entry["valid"] = result.valid
    if result.further:
        entry["metrics"] = result.further
    return entry
