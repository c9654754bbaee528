"""Word-level distillation in which each row asks the teacher of its group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from seqkd.models.registry import NO_TRACES, Traces
from seqkd.objectives.base import Batch, RowWeights, SoftTargets
from seqkd.objectives.groups import GroupedTeacher, split_groups, take_part
from seqkd.objectives.nll import LabelSmoothedNll
from seqkd.objectives.teacher import Teacher
from seqkd.objectives.terms import Forward
from seqkd.objectives.word_kd import WordKd, WordKdSettings
from tests.unit.objectives.support import batch_of, loss_of
from tests.unit.objectives.test_word_kd import transformer

PAIRS = [([5, 6], [8, 9, 10]), ([7], [11]), ([12, 13, 14, 15], [4, 5, 6, 7, 8, 9]), ([5], [6, 7])]
GROUPS = ("fr", "de", "fr", "de")
TEACHERS = {"de": Teacher([transformer(2)]), "fr": Teacher([transformer(3, dim=32)])}


def grouped_batch() -> Batch:
    return batch_of(PAIRS)._replace(groups=np.array(GROUPS))


def of_group(group: str) -> Batch:
    return batch_of([pair for pair, of in zip(PAIRS, GROUPS, strict=True) if of == group])


def gradients(loss: Tensor, model: torch.nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [weight for weight in model.parameters() if weight.requires_grad]))


def test_a_part_of_a_batch_is_the_batch_of_its_rows() -> None:
    batch = grouped_batch()
    for part in split_groups(batch):
        taken, alone = take_part(batch, part), of_group(part.group)
        for name in ("source", "target_in", "target_out"):
            mine, width = getattr(taken, name), getattr(alone, name).size(1)
            assert torch.equal(mine[:, :width], getattr(alone, name))
            assert (mine[:, width:] == 1).all()  # padding
        read = [each.target_out.flatten().index_select(0, each.kept) for each in (taken, alone)]
        assert torch.equal(*read)
        assert taken.tokens == alone.tokens
    assert split_groups(batch_of([])._replace(groups=np.array([], dtype=np.str_))) == []


@pytest.mark.parametrize("more", [{}, {"temperature": 2.0, "top": 4}, {"direction": "reverse"}])
def test_each_row_learns_from_the_teacher_of_its_group(more: dict[str, Any]) -> None:
    student, term = transformer(1).train(), WordKd(alpha=0.7, smoothing=0.1, **more)
    found = loss_of(term, student, grouped_batch(), teacher=GroupedTeacher(TEACHERS))
    apart = [loss_of(term, student, of_group(name), teacher=teacher) for name, teacher in TEACHERS.items()]
    torch.testing.assert_close(found.loss, apart[0].loss + apart[1].loss)
    torch.testing.assert_close(found.nll, apart[0].nll + apart[1].nll)
    pairs = zip(gradients(found.loss, student), gradients(apart[0].loss + apart[1].loss, student), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    rows = loss_of(term, student, grouped_batch(), teacher=GroupedTeacher(TEACHERS), by_row=True).rows
    assert rows is not None
    torch.testing.assert_close(rows.sum(), found.loss.detach())


def test_a_group_without_a_share_has_the_likelihood_alone_and_its_teacher_does_not_run() -> None:
    student, term = transformer(1).train(), WordKd(alpha=0.7, smoothing=0.1, shares={"fr": 0.0, "de": 0.5})

    class Untouchable(Teacher):
        def __call__(self, batch: Batch, wanted: Traces = NO_TRACES) -> Any:  # noqa: ARG002
            raise AssertionError("the teacher runs")

    teachers = {**TEACHERS, "fr": Untouchable([])}
    batch = grouped_batch()._replace(weights=RowWeights(torch.tensor([2.0, 1.0, 0.5, 1.0]), 1.0))
    found = loss_of(term, student, batch, teacher=GroupedTeacher(teachers))
    french = of_group("fr")._replace(weights=RowWeights(torch.tensor([2.0, 0.5]), 1.0))
    expected = loss_of(LabelSmoothedNll(smoothing=0.1), student, french)
    expected_german = loss_of(WordKd(alpha=0.35, smoothing=0.1), student, of_group("de"), teacher=TEACHERS["de"])
    torch.testing.assert_close(found.loss, expected.loss + expected_german.loss)
    assert all(gradient.isfinite().all() for gradient in gradients(found.loss, student))


def test_one_teacher_of_all_groups_has_shares_by_group_too() -> None:
    student, teacher = transformer(1).train(), TEACHERS["de"]
    whole = loss_of(WordKd(alpha=0.7), student, grouped_batch(), teacher=teacher)
    plain = loss_of(WordKd(alpha=0.7), student, batch_of(PAIRS), teacher=teacher)
    torch.testing.assert_close(whole.loss, plain.loss)
    found = loss_of(WordKd(alpha=0.7, shares={"fr": 0.0}), student, grouped_batch(), teacher=teacher)
    german = loss_of(WordKd(alpha=0.7), student, of_group("de"), teacher=teacher)
    french = loss_of(LabelSmoothedNll(smoothing=0.0), student, of_group("fr"))
    torch.testing.assert_close(found.loss, german.loss + french.loss)
    only = loss_of(WordKd(alpha=0.7, shares={"": 0.0}), student, batch_of(PAIRS), teacher=teacher)
    torch.testing.assert_close(only.loss, loss_of(LabelSmoothedNll(smoothing=0.0), student, batch_of(PAIRS)).loss)


def test_any_term_can_ask_the_teachers_of_groups() -> None:
    forward = Forward(transformer(1), grouped_batch(), teacher=GroupedTeacher(TEACHERS))
    assert forward.answer is not None
    tokens = grouped_batch().tokens
    found = forward.answer.logprobs(1, tokens - 1, 2.0)
    for part in split_groups(grouped_batch()):
        theirs = TEACHERS[part.group](of_group(part.group)).logprobs(0, len(part.places), 2.0)
        inside = (part.places >= 1) & (part.places < tokens - 1)
        torch.testing.assert_close(found[part.places[inside] - 1], theirs[inside])


def test_an_empty_batch_asks_nobody() -> None:
    empty = batch_of([])._replace(groups=np.array([], dtype=np.str_))
    found = loss_of(WordKd(alpha=0.7), transformer(1).train(), empty, teacher=GroupedTeacher(TEACHERS))
    assert float(found.loss.detach()) == 0.0


def test_renormalised_likeliest_ids_are_the_published_loss() -> None:
    """DistillLabelSmoothedCrossEntropyCriterion: q over the K ids alone, p over all, at T, times T squared."""
    student, teacher, batch = transformer(1).train(), TEACHERS["de"], batch_of(PAIRS)
    alpha, temperature, k, smoothing = 0.9, 0.6, 4, 0.1
    term = WordKd(alpha=alpha, temperature=temperature, top=k, renormalise=True, smoothing=smoothing)
    found = loss_of(term, student, batch, teacher=teacher)
    forward = Forward(student, batch, teacher=teacher)
    logits = forward.features @ forward.output_weight.t()
    ((rows, layer),) = teacher(batch).members
    values, ids = (rows @ layer.t()).topk(k, dim=-1)
    q = (values / temperature).softmax(-1)
    kd = -(q * (logits / temperature).log_softmax(-1).gather(1, ids)).sum() * temperature**2
    nll = functional.cross_entropy(logits, forward.targets, label_smoothing=smoothing, reduction="sum")
    expected = alpha * kd + (1 - alpha) * nll
    torch.testing.assert_close(found.loss, expected)
    for mine, theirs in zip(gradients(found.loss, student), gradients(expected, student), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)
    q = (rows @ layer.t() / temperature).log_softmax(-1).gather(1, ids)
    stored = batch._replace(soft=SoftTargets(ids, q.detach(), torch.zeros(len(ids))))
    torch.testing.assert_close(loss_of(term, student, stored).loss, expected)


def test_renormalise_needs_the_likeliest_ids() -> None:
    with pytest.raises(ValueError, match="give top_k or soft_targets"):
        WordKdSettings(renormalise=True)
    with pytest.raises(ValueError, match='give direction = "forward"'):
        WordKdSettings(renormalise=True, top_k=8, direction="reverse")
    assert WordKdSettings(renormalise=True, top_k=8).top_k == 8


def test_states_of_the_teachers_of_groups_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="no states or attention"):
        GroupedTeacher(TEACHERS)(grouped_batch(), Traces(attention=("decoder",)))
