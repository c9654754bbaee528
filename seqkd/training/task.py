"""Tasks, which define the rows of a corpus, their collation, and a measurement of models beside the likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the module of a task imports the modules that use tasks
    import pyarrow as pa
    from torch import nn

    from seqkd.metrics.tokenizers import Tokenizer
    from seqkd.objectives.base import Batch
    from seqkd.text.vocabularies import Vocabularies
    from seqkd.training.data import CorpusData, SpecialIds


class Collator(Protocol):
    """A function that makes a batch of rows."""

    def __call__(self, table: pa.Table, special: SpecialIds) -> Batch:
        """Pad the rows of a table with the columns of the task, and `weight` if the corpus has it. It may be empty."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A validation text.

    Attributes:
        data: The rows on which the model can be measured.
        arch: The architecture of the model.
        vocabularies: The vocabularies of source and target.
        tokenizer: The tokenizer of BLEU.
    """

    data: CorpusData
    arch: str
    vocabularies: Vocabularies
    tokenizer: Tokenizer


class MeasurementBuilder(Protocol):
    """A function that prepares a measurement of models on a validation text."""

    def __call__(self, held_out: HeldOut) -> Measurement:
        """See above."""
        ...


class Measurement(Protocol):
    """A function that measures a model."""

    def __call__(self, model: nn.Module) -> float:
        """Return the score of a model in evaluation mode. Higher is better."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A kind of training.

    Attributes:
        name: The name that files use.
        help: A description in one line.
        columns: The columns of a corpus that form a row.
        collate: `module:attribute` of a `Collator`.
        measure: `module:attribute` of a `MeasurementBuilder`.
    """

    name: str
    help: str
    columns: tuple[str, ...]
    collate: str
    measure: str


TRANSLATION = Task(
    name="translation",
    help="Translation of text to text, measured by BLEU of greedy outputs",
    columns=("id", "source_ids", "target_ids"),
    collate="seqkd.training.translation:collate",
    measure="seqkd.training.translation:greedy_bleu",
)
TASKS: dict[str, Task] = {task.name: task for task in (TRANSLATION,)}
