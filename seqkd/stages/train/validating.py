"""Validation of a model on the text of each group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lightning_fabric import Fabric
from torch import nn

from seqkd.config.stages import TrainConfig, TrainingConfig
from seqkd.errors import InputError
from seqkd.extensions import resolve
from seqkd.metrics.registry import METRICS, NLL, Metric
from seqkd.metrics.tokenizers import Tokenizer, choose_tokenizer
from seqkd.objectives.loss import Loss
from seqkd.text.languages import has_blanks
from seqkd.text.vocabularies import Vocabularies
from seqkd.training.data import CorpusData
from seqkd.training.groups import join_groups, split_measure
from seqkd.training.loop import Measured
from seqkd.training.task import TRANSLATION, HeldOut, Measurement
from seqkd.training.validation import held_out_nll


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """The language of a group's outputs.

    Attributes:
        tokenizer: The tokenizer of BLEU.
        blanks: Whether it puts blanks between words.
    """

    tokenizer: Tokenizer
    blanks: bool


def find_languages(training: TrainingConfig, languages: Mapping[str, str | None]) -> dict[str, Language]:
    """Find the language of each group.

    Args:
        training: The settings of the training loop.
        languages: The code of the target language of each group, or None.

    Raises:
        InputError: The tokenizer of a language is not installed.
    """
    found = {}
    for group, code in languages.items():
        try:
            tokenizer = choose_tokenizer(training.tokenizer, code) if list_metrics(training) else "13a"
        except InputError as error:
            if not group:
                raise
            raise InputError(
                f"group {group}: {error.what}", where=error.where, expected=error.expected, hint=error.hint
            ) from None
        found[group] = Language(tokenizer=tokenizer, blanks=code is None or has_blanks(code))
    return found


def list_metrics(training: TrainingConfig) -> tuple[Metric, ...]:
    """List the metrics of outputs that are measured at validations: BLEU unless it is off, and the one that chooses."""
    names = ["bleu"] if training.valid_bleu else []
    metric, _ = split_measure(training.chooses_by)
    if metric not in (NLL, *names):
        names.append(metric)
    return tuple(METRICS.get(name) for name in names)


def make_validate(
    config: TrainConfig,
    fabric: Fabric,
    loss: Loss,
    *,
    held_out: Mapping[str, CorpusData],
    languages: Mapping[str, Language],
    vocabularies: Vocabularies,
) -> Callable[[nn.Module], Measured]:
    """Make the function that measures a model in evaluation mode on the validation text of each group.

    Args:
        config: The settings of the stage.
        fabric: The processes. All of them call the function.
        loss: The objective.
        held_out: The validation text of each group.
        languages: The language of each group.
        vocabularies: The vocabularies of source and target.
    """
    metrics = list_metrics(config.training)
    measurements: dict[str, Measurement] = {}
    if metrics:
        for group, data in held_out.items():
            text = HeldOut(
                data=data,
                arch=config.model.arch,
                vocabularies=vocabularies,
                metrics=metrics,
                tokenizer=languages[group].tokenizer,
                blanks=languages[group].blanks,
            )
            measurements[group] = resolve(TRANSLATION.measure)(text)

    def measure(current: nn.Module, group: str) -> Measured:
        nll = held_out_nll(fabric, current, loss, held_out[group])
        if group not in measurements:
            return nll, {}
        return nll, fabric.broadcast(measurements[group](current) if fabric.is_global_zero else {})

    return lambda current: join_groups({group: measure(current, group) for group in held_out})
