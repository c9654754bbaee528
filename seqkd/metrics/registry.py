"""Metrics by name: numbers that describe a model on a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from seqkd.extensions import Registry, resolve

if TYPE_CHECKING:  # tables of metrics are read without sacrebleu
    from seqkd.metrics.sentence_statistics import MetricScore, Statistics
    from seqkd.metrics.tokenizers import Tokenizer

Direction = Literal["higher", "lower", "neither"]
Need = Literal["references", "sources", "accepted", "probabilities", "other outputs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """A decode of a corpus, the input of metrics. All sequences have the rows of the corpus in its order.

    Attributes:
        hypotheses: Detokenised outputs.
        references: The first reference of each row.
        further_references: All references of each row but the first; () if there are none.
        sources: The text of the sources.
        accepted: All accepted translations of each row; None if the corpus has none.
        tokenizer: The tokenizer that BLEU counts words with.
        blanks: Whether the language puts blanks between words.
    """

    hypotheses: Sequence[str]
    references: Sequence[str]
    sources: Sequence[str]
    accepted: Sequence[Sequence[str]] | None = None
    tokenizer: Tokenizer = "13a"
    blanks: bool = True
    further_references: Sequence[Sequence[str]] = ()

    @property
    def all_references(self) -> list[list[str]]:
        """All references of each row, the first one first."""
        further = self.further_references or [()] * len(self.references)
        return [[first, *others] for first, others in zip(self.references, further, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A number that describes a model on a corpus.

    Attributes:
        name: The name that files and reports use.
        help: One line about the metric.
        label: The head of the column in tables.
        unit: The unit below the label.
        direction: Whether higher or lower values are better, or neither.
        needs: The inputs besides outputs: references, sources, accepted translations of each row, the model's
            probabilities, or the outputs of another model.
        measure: `module:attribute` of a function that takes `Outputs` and returns a `MetricScore`.
        statistics: In place of `measure`, `module:attribute` of a function that takes `Outputs` and returns the
            `Statistics` of their rows. The score of any selection of rows follows from them, so that differences can
            be tested for significance. A metric with neither is computed by the stage that has the probabilities.
        digits: The number of decimals in tables.
        percent: Whether the values are shares, 0 to 1, that tables show in per cent.
    """

    name: str
    help: str
    label: str
    unit: str = ""
    direction: Direction
    needs: frozenset[Need] = frozenset({"references"})
    measure: str | None = None
    statistics: str | None = None
    digits: int = 2
    percent: bool = False

    @property
    def measures_outputs(self) -> bool:
        """Whether the metric is computed from outputs."""
        return self.measure is not None or self.statistics is not None

    @property
    def validates(self) -> bool:
        """Whether training can measure it on outputs for the validation text, which has no accepted translations."""
        return self.measures_outputs and "accepted" not in self.needs and self.direction != "neither"

    def fits(self, outputs: Outputs) -> bool:
        """Whether outputs hold all inputs of the metric."""
        return self.measures_outputs and (outputs.accepted is not None or "accepted" not in self.needs)

    def score(self, outputs: Outputs) -> MetricScore:
        """Compute the metric. The outputs must fit it."""
        if self.statistics is not None:
            return self.compute_statistics(outputs).score
        found: MetricScore = resolve(str(self.measure))(outputs)
        return found

    def compute_statistics(self, outputs: Outputs) -> Statistics:
        """Compute the statistics of the rows. The metric must have statistics, and the outputs must fit it."""
        found: Statistics = resolve(str(self.statistics))(outputs)
        return found


NLL = "nll"  # training measures it at each validation

METRICS = Registry(
    "metric",
    Metric,
    group="seqkd.metrics",
    own={
        "bleu": Metric(
            name="bleu",
            help="BLEU of the corpus by sacrebleu (Papineni et al. 2002)",
            label="BLEU",
            direction="higher",
            statistics="seqkd.metrics.measures:measure_bleu",
        ),
        "bleu_accepted": Metric(
            name="bleu_accepted",
            help="BLEU of the corpus against up to 16 accepted translations of each row",
            label="BLEU, all accepted",
            direction="higher",
            needs=frozenset({"accepted"}),
            statistics="seqkd.metrics.measures:measure_bleu_accepted",
        ),
        "chrf": Metric(
            name="chrf",
            help="Character n-gram F-score, chrF2, by sacrebleu (Popović 2015)",
            label="chrF",
            direction="higher",
            statistics="seqkd.metrics.measures:measure_chrf",
        ),
        "ter": Metric(
            name="ter",
            help="Edits for each 100 words of the reference by sacrebleu (Snover et al. 2006)",
            label="TER",
            direction="lower",
            statistics="seqkd.metrics.measures:measure_ter",
        ),
        "valid": Metric(
            name="valid",
            help="The share of outputs that are accepted translations",
            label="Valid outputs",
            unit="%",
            direction="higher",
            needs=frozenset({"accepted"}),
            statistics="seqkd.metrics.measures:measure_valid",
            digits=1,
            percent=True,
        ),
        "perplexity": Metric(
            name="perplexity",
            help="Perplexity of the references for each target token, end of sentence counted",
            label="Perplexity",
            unit="per token",
            direction="lower",
            needs=frozenset({"references", "probabilities"}),
        ),
        "perplexity_per_character": Metric(
            name="perplexity_per_character",
            help="Perplexity of the references for each character of their text, whatever the vocabulary",
            label="Perplexity",
            unit="per character",
            direction="lower",
            needs=frozenset({"references", "probabilities"}),
        ),
        "mode_probability": Metric(
            name="mode_probability",
            help="Mean probability of the best output of beam search (Kim and Rush 2016, section 5)",
            label="Mode",
            unit="probability, %",
            direction="neither",
            needs=frozenset({"probabilities"}),
            percent=True,
        ),
        "agreement": Metric(
            name="agreement",
            help="BLEU of the outputs with those of the model that `evaluate.agreement` names in place of references",
            label="Agreement",
            unit="BLEU",
            direction="higher",
            needs=frozenset({"other outputs"}),
        ),
        "nll": Metric(
            name="nll",
            help="Negative log-likelihood of the validation references in nats for each target token",
            label="Validation loss",
            unit="nats per token",
            direction="lower",
            needs=frozenset({"references", "probabilities"}),
        ),
    },
)


def list_validating() -> list[str]:
    """List the metrics that can choose a checkpoint: the validation loss, and metrics of validation outputs."""
    return [NLL, *(record.name for record in METRICS.all() if record.validates)]


def main_metric(names: Iterable[str]) -> str | None:
    """Return the metric by which reports compare models: the first one for which higher is better, or None."""
    found = ((name, METRICS.find(name)) for name in names)
    return next((name for name, record in found if record is not None and record.direction == "higher"), None)
