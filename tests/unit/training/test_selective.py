"""The hook that distils a group only while the student has not overtaken its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from seqkd.corpus.batches import Rows
from seqkd.errors import ConfigError
from seqkd.objectives.base import Batch
from seqkd.objectives.groups import GroupedTeacher
from seqkd.objectives.loss import Loss, WeightedTerm
from seqkd.objectives.nll import LabelSmoothedNll
from seqkd.objectives.teacher import Teacher
from seqkd.objectives.word_kd import WordKd
from seqkd.training.hooks import Training
from seqkd.training.loop import Measured
from seqkd.training.selective import Selective, SelectiveSettings, Strategy, find_share
from seqkd.training.state import Validation
from tests.unit.training.support import Recorder, TableData, copy_rows, same_weights, settings, tiny_model, train

TEACHERS = {"de": 20.0, "fr": 30.0}


@pytest.mark.parametrize(
    ("strategy", "lead", "margin", "share"),
    [
        ("threshold", -5.0, 1.0, 1.0),
        ("threshold", 0.9, 1.0, 1.0),
        ("threshold", 1.0, 1.0, 0.0),
        ("adaptive", -2.1, 2.0, 1.0),
        ("adaptive", -2.0, 2.0, 1.0),
        ("adaptive", 0.0, 2.0, 0.25),
        ("adaptive", 1.0, 2.0, 0.125),
        ("always", 9.0, 1.0, 1.0),
    ],
)
def test_the_share_of_a_group(strategy: Strategy, lead: float, margin: float, share: float) -> None:
    assert find_share(strategy, lead, margin) == pytest.approx(share)


def line(update: int, **values: float) -> Validation:
    metrics = {name.replace("_", "@"): value for name, value in values.items()}
    return Validation(
        update=update,
        epoch=0,
        train_loss=1.0,
        valid_nll=1.0,
        valid_bleu=25.0,
        tokens_per_second=1.0,
        learning_rate=0.1,
        metrics=metrics,
    )


def run_of(term: WordKd, asked: list[str], *, model: nn.Module | None = None) -> Training:
    def score(metric: str) -> dict[str, float]:
        asked.append(metric)
        return TEACHERS

    return Training(
        model=model or nn.Module(),
        loss=Loss([WeightedTerm(term=term)]),
        groups=("de", "fr"),
        measured=("nll", "bleu"),
        score_teachers=score,
    )


def test_a_group_is_switched_off_and_on_again_and_the_teachers_are_measured_once() -> None:
    term, asked = WordKd(), list[str]()
    hook = Selective(SelectiveSettings(margin=1.0), run_of(term, asked))
    assert term.shares == {}  # all groups are distilled at first
    noted = hook.validated(line(10, bleu_de=20.5, bleu_fr=31.5))
    assert term.shares == {"de": 1.0, "fr": 0.0}
    assert noted == {"distilled@de": 1.0, "distilled@fr": 0.0, "teacher_bleu@de": 20.0, "teacher_bleu@fr": 30.0}
    hook.validated(line(20, bleu_de=22.0, bleu_fr=30.5))
    assert term.shares == {"de": 0.0, "fr": 1.0}
    assert asked == ["bleu"]


def test_decisions_are_made_every_few_validations() -> None:
    term = WordKd()
    hook = Selective(SelectiveSettings(every=2), run_of(term, []))
    hook.validated(line(10, bleu_de=99.0, bleu_fr=0.0))
    assert term.shares == {"de": 0.0, "fr": 1.0}
    hook.validated(line(20, bleu_de=0.0, bleu_fr=99.0))
    assert term.shares == {"de": 0.0, "fr": 1.0}
    hook.validated(line(30, bleu_de=0.0, bleu_fr=99.0))
    assert term.shares == {"de": 1.0, "fr": 0.0}


def test_a_lower_likelihood_is_a_lead() -> None:
    term = WordKd()
    hook = Selective(SelectiveSettings(metric="nll", margin=0.5), run_of(term, []))
    hook.validated(line(10, nll_de=19.4, nll_fr=29.6))
    assert term.shares == {"de": 0.0, "fr": 1.0}


def test_what_it_cannot_switch_or_compare() -> None:
    run = run_of(WordKd(), [])
    with pytest.raises(ConfigError, match="'chrf' is not measured at validations") as caught:
        Selective(SelectiveSettings(metric="chrf"), run)
    assert caught.value.expected == "one of: nll, bleu"
    plain = Training(model=run.model, loss=Loss([WeightedTerm(term=LabelSmoothedNll(smoothing=0.1))]))
    with pytest.raises(ConfigError, match="no term of the objective has a teacher that can be switched off by group"):
        Selective(SelectiveSettings(), plain)


class KilledError(Exception):
    """Ends a run as SIGKILL would: nothing is saved."""


class TwoGroups(TableData):
    """Rows with odd ids are French."""

    def load(self, rows: Rows) -> Batch:
        batch = super().load(rows)
        return batch._replace(groups=np.where(batch.ids % 2 == 0, "de", "fr"))


def scores() -> Sequence[dict[str, float]]:
    """Of each validation: French overtakes its teacher at the second one, and falls behind at the third one."""
    return [{"bleu@de": 1.0, "bleu@fr": score} for score in (1.0, 40.0, 1.0, 40.0)]


@pytest.mark.parametrize("kill_at", [20, 30])
def test_a_killed_run_goes_on_with_its_switches(tmp_path: Path, kill_at: int) -> None:
    teachers = {}
    for number, group in enumerate(("de", "fr")):
        torch.manual_seed(number)
        teachers[group] = Teacher([tiny_model(dropout=0.0, dim=16).eval()])

    def run(folder: Path, kill_at: int, done: int = 0) -> tuple[nn.Module, list[Validation], list[str]]:
        model, term, asked = tiny_model(), WordKd(alpha=0.8), list[str]()
        left = iter(scores()[done:])

        def validate(_: nn.Module) -> Measured:
            return 1.0, {"bleu": 1.0, **next(left)}

        def kill(update: int) -> None:
            if update == kill_at:
                raise KilledError

        loss = Loss([WeightedTerm(term=term)], teacher=GroupedTeacher(teachers))
        training = run_of(term, asked)
        hook = Selective(
            SelectiveSettings(),
            Training(
                model=model,
                loss=loss,
                groups=("de", "fr"),
                measured=("nll", "bleu"),
                score_teachers=training.score_teachers,
            ),
        )
        trained, result, _ = train(
            folder,
            settings(40),
            model=model,
            data=TwoGroups(copy_rows(60)),
            objective=loss,
            validate=validate,
            observer=Recorder(kill),
            hooks=[hook],
        )
        return trained, result.history, asked

    whole, expected, _ = run(tmp_path / "whole", 0)
    assert [found.metrics["distilled@fr"] for found in expected] == [1.0, 0.0, 1.0, 0.0]
    with pytest.raises(KilledError):
        run(tmp_path / "killed", kill_at)
    resumed, history, asked = run(tmp_path / "killed", 0, done=kill_at // 10 - 1)
    assert same_weights(whole, resumed)
    assert [found.metrics for found in history] == [found.metrics for found in expected]
    assert asked == []  # the scores of the teachers are part of the state
