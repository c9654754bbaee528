"""Tasks, which define the rows of a corpus, their collation, and a measurement of models beside the likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # the module of a task imports the modules that use tasks
    import pyarrow as pa
    from torch import nn

    from seqkd.metrics.registry import Metric
    from seqkd.metrics.tokenizers import Tokenizer
    from seqkd.objectives.base import Batch
    from seqkd.text.vocabularies import Vocabularies
    from seqkd.training.data import CorpusData, SpecialIds


class Collator(Protocol):
    """A function that makes a batch of rows."""

    def __call__(self, table: pa.Table, special: SpecialIds) -> Batch:
        """Pad the rows of a table, which may be empty.

        It has the columns of the task, `weight` if the corpus has it, and `rival_ids` and `rival_margin` if the
        objective reads them.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A validation text.

    Attributes:
        data: The rows on which the model can be measured.
        arch: The architecture of the model.
        vocabularies: The vocabularies of source and target.
        metrics: The metrics of outputs to measure; at least one.
        tokenizer: The tokenizer of BLEU.
        blanks: Whether the target language puts blanks between words.
    """

    data: CorpusData
    arch: str
    vocabularies: Vocabularies
    metrics: tuple[Metric, ...]
    tokenizer: Tokenizer
    blanks: bool


class MeasurementBuilder(Protocol):
    """A function that prepares a measurement of models on a validation text."""

    def __call__(self, held_out: HeldOut) -> Measurement:
        """See above."""
        ...


class Measurement(Protocol):
    """A function that measures a model."""

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Return the values of the metrics, by name, of a model in evaluation mode."""
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
    help="Translation of text to text, measured by metrics of greedy outputs",
    columns=("id", "source_ids", "target_ids"),
    collate="seqkd.training.translation:collate",
    measure="seqkd.training.translation:measure_greedy",
)
TASKS: dict[str, Task] = {task.name: task for task in (TRANSLATION,)}
