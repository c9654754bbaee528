"""What `evaluate` finds out about a model, and the file it writes it to."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqkd.errors import CorpusError
from seqkd.metrics.registry import METRICS
from seqkd.metrics.significance import Significance
from seqkd.metrics.speed import Load, Speed

RESULT = "result.json"
BLEU = "bleu"
FIELDS = ("bleu", "chrf", "ter", "bleu_accepted", "valid")  # metrics that have a field of their own in results


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeResult:
    """One decode of the test corpus.

    Attributes:
        bleu: BLEU against the references, 0 to 100; None, as for all metrics, if it was not measured.
        chrf: chrF2 against the references, 0 to 100.
        ter: TER against the references, edits per 100 reference words.
        bleu_accepted: BLEU against several accepted translations a row, where the test corpus has them.
        valid: Share of outputs, 0 to 1, that are accepted translations, where the test corpus has them.
        length_ratio: Tokens of the outputs over tokens of the first references.
        cut: Outputs that reached the length limit.
        unjudged: Candidates that were longer than the positions of the model that rescores, and lost.
        speed: How fast it is; None if it was not timed.
        speedup: How many times the baseline's sentences per second, each in its best batches; None without baseline.
        speedup_batch1: The same where sentences are decoded one at a time.
        engine: The search engine that drives the model: `cpu`, `gpu` or `plain` (torch); "" if an earlier version of
            seqkd wrote the result.
        further: Values of the other metrics of outputs, by name.
        main: The metric by which reports compare models.
        significance: How metrics differ from the baseline's, by name; empty if they were not compared.
    """

    bleu: float | None
    chrf: float | None
    ter: float | None
    bleu_accepted: float | None
    valid: float | None
    length_ratio: float
    cut: int
    unjudged: int = 0  # results of earlier versions do not have it
    speed: Speed | None
    speedup: float | None
    speedup_batch1: float | None
    engine: str = ""
    further: dict[str, float] = field(default_factory=dict)
    main: str = BLEU
    significance: dict[str, Significance] = field(default_factory=dict)

    def measured(self, metric: str) -> float | None:
        """The value of a metric of outputs; None if it was not measured."""
        return getattr(self, metric) if metric in FIELDS else self.further.get(metric)

    @property
    def score(self) -> float:
        """The value of the metric by which reports compare models, a share in per cent."""
        value, record = self.measured(self.main) or 0.0, METRICS.find(self.main)
        return 100.0 * value if record is not None and record.percent else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The decode that a model was timed in turn with: the teacher's at the largest beam.

    Attributes:
        decode: Its name.
        speed: How fast it is.
        engine: As in `DecodeResult`.
    """

    decode: str
    speed: Speed
    engine: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """A model on a test corpus.

    Attributes:
        name: The model's name in the pipeline.
        role: teacher or student.
        arch: Kind of model.
        trained_on: Name of the training corpus.
        objective: What it was trained to minimise, `+glat` where it was glanced at; "" where nothing says so.
        recipe: Equal for models that differ in their weights and their training data alone; "" where that is unknown.
        parameters: Number of weights, shared ones once.
        rows: Rows of the test corpus.
        decodes: By name: a beam as a number ("1", "5"), a decode of all positions at once as it is called ("nat").
            Beams rise, others stand as in the stage file.
        quality: The largest beam, or the last decode: the one that `mode_probability` is of.
        quick: The first beam or decode of the stage file: what a student is meant to be used with.
        parallel: Whether it writes all positions at once.
        perplexity: Of the references, per target token, end of sentence counted, over the rows that fit the model's
            positions; None for a parallel model.
        mode_probability: Mean probability of beam search's best output (Kim & Rush 2016, section 5), over the rows that
            were decoded and whose source has tokens; likewise.
        too_long: Rows whose source is longer than the model's positions: their outputs are empty.
        baseline: What speed-ups are over.
        compared_with: The baseline that `significance` of the decodes is over; "" if they were not compared.
        load: What the machine was doing when the decodes were timed; None if they were not, or in results of earlier
            versions.
        signatures: sacrebleu's signature of bleu, chrf, ter, and bleu_accepted where there is one.
        device: What it ran on, in words.
        precision: The weights' number format.
    """

    name: str
    role: str
    arch: str
    trained_on: str
    objective: str
    recipe: str
    parameters: int
    rows: int
    decodes: dict[str, DecodeResult]
    quality: str
    quick: str
    parallel: bool
    perplexity: float | None
    mode_probability: float | None
    too_long: int = 0  # results of earlier versions do not have it
    baseline: Baseline | None
    compared_with: str = ""
    load: Load | None = None
    signatures: dict[str, str]
    device: str
    precision: str

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


def read_result(folder: str | Path) -> EvaluationResult:
    """Read what `evaluate` wrote into `folder`.

    Raises:
        CorpusError: The file is missing, or not what this version of seqkd writes.
    """
    folder = Path(folder)
    path = folder / RESULT
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())
        decodes, baseline = values["decodes"], values["baseline"]
        values["decodes"] = {name: DecodeResult(**_of_decode(result)) for name, result in decodes.items()}
        values["baseline"] = None if baseline is None else Baseline(**_with_speed(baseline))
        load = values.get("load")
        values["load"] = None if load is None else Load(**load)
        return EvaluationResult(**values)
    except FileNotFoundError:
        raise CorpusError(f"no {RESULT}", where=str(folder), expected="a folder that `seqkd evaluate` wrote") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorpusError(
            f"cannot be read: {error}", where=str(path), hint="evaluate the model again with --overwrite"
        ) from None


def _of_decode(values: dict[str, Any]) -> dict[str, Any]:
    tested = {name: Significance(**found) for name, found in values.get("significance", {}).items()}
    return {**_with_speed(values), "significance": tested}


def _with_speed(values: dict[str, Any]) -> dict[str, Any]:
    speed = values["speed"]
    return {**values, "speed": None if speed is None else Speed(**speed)}
