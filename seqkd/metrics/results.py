"""What `evaluate` finds out about a model, and the file it writes it to."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqkd.errors import CorpusError

RESULT = "result.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BeamResult:
    """One decode of the test corpus.

    Attributes:
        bleu: BLEU against the reference, 0 to 100.
        chrf: chrF2 against the reference, 0 to 100.
        ter: TER against the reference, edits per 100 reference words.
        bleu_accepted: BLEU against several accepted translations a row, where the test corpus has them.
        valid: Share of outputs, 0 to 1, that are accepted translations, where the test corpus has them.
        length_ratio: Tokens of the outputs over tokens of the references.
        cut: Outputs that reached the length limit.
        sentences_per_second: Wall clock, search and detokenising, after a warm-up.
    """

    bleu: float
    chrf: float
    ter: float
    bleu_accepted: float | None
    valid: float | None
    length_ratio: float
    cut: int
    sentences_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """A model on a test corpus.

    Attributes:
        name: The model's name in the pipeline.
        role: teacher or student.
        arch: Kind of model.
        trained_on: Name of the training corpus.
        objective: What it was trained to minimise; "" where nothing says so.
        parameters: Number of weights, shared ones once.
        rows: Rows of the test corpus.
        beams: By beam size.
        quality_beam: The largest beam, the one that `mode_probability` is of.
        latency_beam: The first beam, the one that `latency_ms` is of.
        perplexity: Of the references, per target token, end of sentence counted.
        mode_probability: Mean probability of beam search's best output (Kim & Rush 2016, section 5).
        latency_ms: Median time of one sentence alone, milliseconds.
        latency_sentences: How many sentences that is the median of.
        signatures: sacrebleu's signature of bleu, chrf, ter, and bleu_accepted where there is one.
        device: What it ran on, in words.
        precision: The weights' number format.
    """

    name: str
    role: str
    arch: str
    trained_on: str
    objective: str
    parameters: int
    rows: int
    beams: dict[int, BeamResult]
    quality_beam: int
    latency_beam: int
    perplexity: float
    mode_probability: float
    latency_ms: float
    latency_sentences: int
    signatures: dict[str, str]
    device: str
    precision: str

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


def read_result(folder: Path) -> EvaluationResult:
    """Read what `evaluate` wrote into `folder`.

    Raises:
        CorpusError: The file is missing, or not what this version of seqkd writes.
    """
    path = folder / RESULT
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())
        values["beams"] = {int(beam): BeamResult(**result) for beam, result in values["beams"].items()}
        return EvaluationResult(**values)
    except FileNotFoundError:
        raise CorpusError(f"no {RESULT}", where=str(folder), expected="a folder that `seqkd evaluate` wrote") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorpusError(
            f"cannot be read: {error}", where=str(path), hint="evaluate the model again with --overwrite"
        ) from None
