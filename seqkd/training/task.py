"""Tasks: what a row of a corpus is, how rows become batches, and how a model is measured beside its likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # a task's own module imports those that take the task
    import pyarrow as pa
    from torch import nn

    from seqkd.metrics.registry import Metric
    from seqkd.metrics.tokenizers import Tokenizer
    from seqkd.objectives.base import Batch
    from seqkd.text.vocabularies import Vocabularies
    from seqkd.training.data import CorpusData, SpecialIds


class Collate(Protocol):
    """Makes a batch of rows."""

    def __call__(self, table: pa.Table, special: SpecialIds) -> Batch:
        """Pad the rows of a table with the task's columns, and `weight` if the corpus has it; there may be none."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A validation text.

    Attributes:
        data: Its rows that the model can be measured on.
        arch: The model's architecture.
        vocabularies: Of source and target.
        metrics: Metrics of outputs to measure; at least one.
        tokenizer: The words that BLEU counts.
        blanks: Whether the target language puts blanks between words.
    """

    data: CorpusData
    arch: str
    vocabularies: Vocabularies
    metrics: tuple[Metric, ...]
    tokenizer: Tokenizer
    blanks: bool


class Measure(Protocol):
    """Prepares a measurement of models on a validation text."""

    def __call__(self, held_out: HeldOut) -> Score:
        """See above."""
        ...


class Score(Protocol):
    """Measures a model."""

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """The values of the metrics, by name, of a model in evaluation mode."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A kind of training.

    Attributes:
        name: By which files name it.
        help: One line.
        columns: The columns of a corpus that make a row.
        collate: `module:attribute` of a `Collate`.
        measure: `module:attribute` of a `Measure`.
    """

    name: str
    help: str
    columns: tuple[str, ...]
    collate: str
    measure: str


TRANSLATION = Task(
    name="translation",
    help="Text to text; measured by metrics of greedy outputs",
    columns=("id", "source_ids", "target_ids"),
    collate="seqkd.training.translation:collate",
    measure="seqkd.training.translation:greedy",
)
TASKS: dict[str, Task] = {task.name: task for task in (TRANSLATION,)}
