"""The results of `evaluate`, and the file that holds them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
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
        bleu_accepted: BLEU against several accepted translations per row, if the test corpus has them.
        valid: Share of outputs, 0 to 1, that are accepted translations, if the test corpus has them.
        length_ratio: Tokens of the outputs over tokens of the first references.
        cut: Outputs that reached the length limit.
        unjudged: Candidates that were lost because they exceed the positions of the model that rescores.
        speed: The speed of the decode; None if it was not timed.
        speedup: Sentences per second relative to the baseline, each in its best batches; None without baseline.
        speedup_batch1: The same for sentences that are decoded one at a time.
        engine: The search engine that drives the model: `cpu`, `gpu` or `plain` (torch); "" if an earlier version of
            seqkd wrote the result.
        further: Values of the other metrics of outputs, by name.
        main: The metric by which reports compare models.
        significance: The differences of metrics from the baseline, by name; empty if they were not compared.
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

    def get_value(self, metric: str) -> float | None:
        """Return the value of a metric of outputs; None if it was not measured."""
        return getattr(self, metric) if metric in FIELDS else self.further.get(metric)

    @property
    def score(self) -> float:
        """The value of the metric by which reports compare models. A share is in per cent."""
        value, record = self.get_value(self.main) or 0.0, METRICS.find(self.main)
        return 100.0 * value if record is not None and record.percent else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The decode that a model was timed in turn with: that of the teacher at the largest beam.

    Attributes:
        decode: The name of the decode.
        speed: The speed of the decode.
        engine: The search engine, as in `DecodeResult`.
    """

    decode: str
    speed: Speed
    engine: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """The evaluation of a model on a test corpus.

    Attributes:
        name: The model's name in the pipeline.
        role: teacher or student.
        arch: The architecture.
        trained_on: Name of the training corpus.
        objective: The training objective, with `+glat` for glancing training; "" if it is unknown.
        recipe: Equal for models that differ only in their weights and their training data; "" if it is unknown.
        parameters: Number of weights, shared ones once.
        rows: Rows of the test corpus.
        decodes: The decodes by name: a number for a beam ("1", "5"), or the name of a parallel decode ("nat"). Beams
            ascend, and other decodes are in the order of the stage file.
        quality: The largest beam or the last decode, which `mode_probability` is measured on.
        quick: The first beam or decode of the stage file, which a student is meant to be used with.
        parallel: Whether the model writes all positions at once.
        perplexity: Perplexity of the references per target token, end of sentence counted, over the rows that fit the
            model's positions; None for a parallel model.
        perplexity_per_character: The same for each character of the references' text, which models with different
            vocabularies can be compared by; None for a parallel model and in results of earlier versions.
        vocabulary: The digest of the target vocabulary; "" in results of earlier versions.
        pieces: The number of its pieces; 0 in results of earlier versions.
        mode_probability: Mean probability of beam search's best output (Kim & Rush 2016, section 5), over the rows that
            were decoded and whose source has tokens; None for a parallel model.
        target_logprobs: Mean log-probability of a target token, end of sentence included, in nats, by the name of the
            training corpus; empty if it was not measured, and for a parallel model.
        target_rows: The rows of these corpora that were measured.
        too_long: Rows whose source is longer than the model's positions: their outputs are empty.
        baseline: The decode that speed-ups are relative to.
        compared_with: The baseline of `significance` of the decodes; "" if they were not compared.
        load: The load of the machine when the decodes were timed; None if they were not timed, or in results of
            earlier versions.
        signatures: The signatures of sacrebleu for bleu, chrf, ter and, if measured, bleu_accepted.
        device: The device, in words.
        precision: The number format of the weights.
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
    target_logprobs: dict[str, float] = field(default_factory=dict)  # results of earlier versions do not have them
    target_rows: int = 0
    too_long: int = 0  # results of earlier versions have neither it nor the next three
    perplexity_per_character: float | None = None
    vocabulary: str = ""
    pieces: int = 0
    baseline: Baseline | None
    compared_with: str = ""
    load: Load | None = None
    signatures: dict[str, str]
    device: str
    precision: str

    def to_json(self) -> str:
        """Return the text of the file."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


def differ_in_vocabulary(results: Iterable[EvaluationResult]) -> bool:
    """Whether models have different target vocabularies, so that numbers per token cannot be compared."""
    return len({result.vocabulary for result in results if result.vocabulary}) > 1


def read_result(folder: str | Path) -> EvaluationResult:
    """Read the results that `evaluate` wrote into `folder`.

    Raises:
        CorpusError: The file is missing, or this version of seqkd cannot read it.
    """
    folder = Path(folder)
    path = folder / RESULT
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())
        decodes, baseline = values["decodes"], values["baseline"]
        values["decodes"] = {name: DecodeResult(**_read_decode(result)) for name, result in decodes.items()}
        values["baseline"] = None if baseline is None else Baseline(**_read_speed(baseline))
        load = values.get("load")
        values["load"] = None if load is None else Load(**load)
        return EvaluationResult(**values)
    except FileNotFoundError:
        raise CorpusError(f"no {RESULT}", where=str(folder), expected="a folder that `seqkd evaluate` wrote") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorpusError(
            f"cannot be read: {error}", where=str(path), hint="evaluate the model again with --overwrite"
        ) from None


def _read_decode(values: dict[str, Any]) -> dict[str, Any]:
    tested = {name: Significance(**found) for name, found in values.get("significance", {}).items()}
    return {**_read_speed(values), "significance": tested}


def _read_speed(values: dict[str, Any]) -> dict[str, Any]:
    speed = values["speed"]
    return {**values, "speed": None if speed is None else Speed(**speed)}
