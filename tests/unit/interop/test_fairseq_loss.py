"""fairseq's losses: the same numbers as fairseq's own data, task and criterion give."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seqkd.objectives.base import Batch
from seqkd.training.data import SpecialIds
from seqkd.training.translation import collate
from tests.unit.interop.fairseq_models_support import EVERY, PARALLEL, batch_of, sentences, small, translated
from tests.unit.objectives.support import loss_of as loss_of_term

pytest.importorskip("fairseq", reason="the losses are fairseq's: pip install 'seqkd[fairseq]'")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # fairseq's, of torch


def loss_of(model: Any, batch: Batch, smoothing: float = 0.1) -> Any:
    from seqkd.interop.fairseq_loss import FairseqLoss

    return loss_of_term(FairseqLoss(smoothing=smoothing), model, batch)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", EVERY)
def test_equals_fairseqs_own(name: str, smoothing: float) -> None:
    from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
    from fairseq.criterions.nat_loss import LabelSmoothedDualImitationCriterion
    from fairseq.data import LanguagePairDataset, ListDataset
    from fairseq.tasks import FairseqTask

    model, parallel = small(name), name in PARALLEL
    rows = [list(range(4, 4 + length)) for length in (3, 8, 5, 1, 6)]  # of different lengths: there is one order
    begin = [0] if parallel else []
    sides = []
    for side in (rows, [translated(row) for row in rows]):
        data = [torch.tensor([*begin, *row, 2]) for row in side]
        sides.append(ListDataset(data, [len(row) for row in data]))
    dictionary = model.task.target_dictionary
    dataset = LanguagePairDataset(
        # fairseq pads on the left, but what it copies from the source is then off.
        *(sides[0], sides[0].sizes, dictionary, sides[1], sides[1].sizes, dictionary),
        left_pad_source=name != "nonautoregressive_transformer",
    )
    sample = dataset.collater([dataset[index] for index in range(len(rows))])
    torch.manual_seed(1)
    if parallel:
        model.net.args.label_smoothing = smoothing
        criterion = LabelSmoothedDualImitationCriterion(model.task, smoothing)
        loss, size, logged = model.task.valid_step(sample, model.net, criterion)
    else:
        criterion = LabelSmoothedCrossEntropyCriterion(model.task, sentence_avg=False, label_smoothing=smoothing)
        loss, size, logged = FairseqTask.valid_step(model.task, sample, model.net, criterion)
        assert size == sum(len(row) + 1 for row in rows)
    with torch.no_grad():
        ours = loss_of(model, batch_of(rows), smoothing)
    scale = batch_of(rows).tokens if parallel else 1  # a mean there, a sum in seqkd
    assert float(ours.loss) == pytest.approx(float(loss) * scale, rel=1e-4)
    assert float(ours.nll) == pytest.approx(float(logged["nll_loss"]) * scale, rel=1e-4)


@pytest.mark.parametrize("name", EVERY)
def test_a_batch_without_rows_counts_nothing(name: str) -> None:
    import pyarrow as pa

    empty = pa.table({"id": [], "source_ids": [], "target_ids": []})
    model = small(name).train()
    out = loss_of(model, collate(empty, SpecialIds(pad=1, eos=2, start=2)))
    out.loss.backward()
    assert (float(out.loss), float(out.nll)) == (0.0, 0.0)
    assert not any(weight.grad is not None and weight.grad.any() for weight in model.parameters())
    # With several processes, a weight that took no part would keep the others waiting.
    taking_part = [name for name, weight in model.named_parameters() if weight.grad is not None]
    model.zero_grad()
    loss_of(model, batch_of(sentences(12))).loss.backward()
    assert taking_part == [name for name, weight in model.named_parameters() if weight.grad is not None]


@pytest.mark.parametrize("name", PARALLEL)
def test_noise_is_drawn_in_training_and_fixed_in_evaluation(name: str) -> None:
    model, batch = small(name, dropout=0.0), batch_of(sentences(12))
    state = torch.get_rng_state()
    with torch.no_grad():
        first = loss_of(model, batch)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(7)
        assert loss_of(model, batch).nll == first.nll
        model.train()
        losses = set()
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            losses.add(float(loss_of(model, batch).loss))
    noisy = name not in ("nacrf_transformer", "nonautoregressive_transformer")
    assert len(losses) == (2 if noisy else 1)


@pytest.mark.parametrize("name", EVERY)
def test_loss_in_bf16(name: str) -> None:
    model, batch = small(name), batch_of(sentences(12))
    expected = loss_of(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        out = loss_of(model, batch)
    assert out.loss.dtype == torch.float32
    assert float(out.loss) == pytest.approx(float(expected.loss), rel=0.05)


def test_nothing_is_printed_for_each_batch(capsys: pytest.CaptureFixture[str]) -> None:
    loss_of(small("levenshtein_transformer"), batch_of(sentences(4)))
    assert capsys.readouterr().out == ""
