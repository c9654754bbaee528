"""Validation of a model on the text of each group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lightning_fabric import Fabric
from torch import nn

from seqkd.config.stages import TrainConfig, TrainingConfig
from seqkd.errors import ConfigError, InputError
from seqkd.extensions import resolve
from seqkd.metrics.registry import METRICS, NLL, Metric
from seqkd.metrics.tokenizers import Tokenizer, choose_tokenizer
from seqkd.models.checkpoint import read_config
from seqkd.objectives.loss import Loss
from seqkd.stages.train.teaching import Teams
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationText:
    """The validation text of each group.

    Attributes:
        held_out: The rows on which the model can be measured.
        languages: The language of each group.
        vocabularies: The vocabularies of source and target.
    """

    held_out: Mapping[str, CorpusData]
    languages: Mapping[str, Language]
    vocabularies: Vocabularies

    def prepare_measurement(self, group: str, arch: str, metrics: tuple[Metric, ...]) -> Measurement:
        """Prepare the measurement of a group by at least one metric, for models of an architecture."""
        text = HeldOut(
            data=self.held_out[group],
            arch=arch,
            vocabularies=self.vocabularies,
            metrics=metrics,
            tokenizer=self.languages[group].tokenizer,
            blanks=self.languages[group].blanks,
        )
        found: Measurement = resolve(TRANSLATION.measure)(text)
        return found


def make_validate(
    config: TrainConfig, fabric: Fabric, loss: Loss, text: ValidationText
) -> Callable[[nn.Module], Measured]:
    """Make the function that measures a model in evaluation mode on the validation text of each group.

    Args:
        config: The settings of the stage.
        fabric: The processes. All of them call the function.
        loss: The objective.
        text: The validation text.
    """
    metrics = list_metrics(config.training)
    measurements = {
        group: text.prepare_measurement(group, config.model.arch, metrics) for group in text.held_out if metrics
    }

    def measure(current: nn.Module, group: str) -> Measured:
        nll = held_out_nll(fabric, current, loss, text.held_out[group])
        if group not in measurements:
            return nll, {}
        return nll, fabric.broadcast(measurements[group](current) if fabric.is_global_zero else {})

    return lambda current: join_groups({group: measure(current, group) for group in text.held_out})


def score_teachers(
    fabric: Fabric, loss: Loss, text: ValidationText, teams: Teams, folders: Mapping[str, Sequence[Path]], metric: str
) -> dict[str, float]:
    """Measure the teacher of each group on the validation text of the group. All processes call the function.

    Args:
        fabric: The processes.
        loss: The objective, which computes the likelihood.
        text: The validation text.
        teams: The loaded teachers.
        folders: The folders of the teachers, by group as in `teams`.
        metric: The name of a metric that validations measure.

    Raises:
        ConfigError: A group has no teacher that runs beside the student, or an ensemble of several.
    """
    found = {}
    for group, data in text.held_out.items():
        own = folders.get("") or folders.get(group, ())
        if len(own) != 1:
            what = f"an ensemble of {len(own)} teachers" if own else "no teacher that runs beside the student"
            raise ConfigError(
                f"group {group or 'of the data set'} has {what}, whose score cannot be measured",
                where="hooks",
                expected="one teacher for each group",
                hint="give the student one live teacher for each group, or leave the hook out",
            )
        model = cast(nn.Module, teams.find(group).teacher.models[0])
        if metric == NLL:
            found[group] = held_out_nll(fabric, model, loss, data)
            continue
        measurement = text.prepare_measurement(group, read_config(own[0])["arch"], (METRICS.get(metric),))
        values = fabric.broadcast(measurement(model) if fabric.is_global_zero else {})
        found[group] = values[metric]
    return found
