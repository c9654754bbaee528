from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from seqkd.models.nat.lengths import OUT_OF_REACH
from seqkd.models.nat.vanilla import CopyFrom, Nat
from seqkd.models.protocol import TOO_LONG, Output, ParallelModel, ParallelSettings
from seqkd.search.parallel import ParallelSearch
from tests.unit.models.nat.support import EOS, PAD, VOCAB, nat, padded, pair_lengths, sentences
from tests.unit.search.support import tiny_model

COPIES = ["uniform", "fertility"]


def texts(found: Sequence[Sequence[Output]]) -> list[list[list[int]]]:
    return [[output.ids for output in outputs] for outputs in found]


@pytest.mark.parametrize("copy_from", COPIES)
@torch.inference_mode()
def test_batched_equals_alone_and_padding_changes_nothing(copy_from: CopyFrom) -> None:
    model, settings = nat(copy_from=copy_from), ParallelSettings(candidates=4, nbest=4)
    rows = sentences(12)
    together = model.translate(padded(rows), settings)
    for row, found in zip(rows, together, strict=True):
        for room in (0, 17):
            (alone,) = model.translate(padded([row], room), settings)
            assert texts([alone]) == texts([found])
            assert [output.score for output in alone] == pytest.approx([output.score for output in found], abs=1e-5)


@pytest.mark.parametrize("copy_from", COPIES)
@torch.inference_mode()
def test_candidates_are_ranked_and_distinct(copy_from: CopyFrom) -> None:
    model, rows = nat(copy_from=copy_from), sentences(12)
    every = model.translate(padded(rows), ParallelSettings(candidates=6, nbest=6))
    two = model.translate(padded(rows), ParallelSettings(candidates=6, nbest=2))
    assert texts(two) == [found[:2] for found in texts(every)]
    for found in every:
        assert 1 < len(found) <= 6
        assert len({tuple(output.ids) for output in found}) == len(found)
        scores = [output.score for output in found]
        assert scores == sorted(scores, reverse=True)
        for output in found:
            assert output.score == pytest.approx(output.logprob / len(output.ids))
            assert output.ids
            assert not {PAD, EOS, VOCAB} & set(output.ids)


@torch.inference_mode()
def test_a_candidate_is_the_likeliest_token_at_each_position() -> None:
    model = nat()
    source = torch.tensor([[5, 9, 7, 4, EOS]])
    memory, real = model.encode(source), source.ne(PAD)
    assert model.lengths is not None
    lengths = model.lengths.logits(memory, real)[0].log_softmax(-1)
    found = model.translate(source, ParallelSettings(candidates=5, nbest=5))[0]
    assert len(found) == 5
    for output in found:
        length = len(output.ids) + 1
        read = [round((5 - 1) * step / (length - 1) + 1e-9) for step in range(length)]
        inputs = model.stack.source_embedding[source[0, read]][None] * model.stack.scale
        features = model.decode(inputs, torch.ones(1, length, dtype=torch.bool), memory, source)
        logprobs = model.stack.project(features)[0, :-1].log_softmax(-1)
        allowed = logprobs.clone()
        allowed[:, [PAD, EOS]] = float("-inf")
        assert output.ids == allowed.argmax(-1).tolist()
        total = allowed.max(-1).values.sum() + lengths[length - 5 + 128]
        assert output.logprob == pytest.approx(float(total), abs=1e-4)
    best = sorted((length for length in range(2, 25)), key=lambda each: -float(lengths[each - 5 + 128]))[:5]
    assert sorted(len(output.ids) + 1 for output in found) == sorted(best)


@pytest.mark.parametrize("copy_from", COPIES)
def test_it_fits_the_driver_and_its_rescorers(copy_from: CopyFrom) -> None:
    model = nat(copy_from=copy_from)
    assert isinstance(model, ParallelModel)
    rows = [(index, row[:-1]) for index, row in enumerate(sentences(10))]
    judge = tiny_model(vocab=VOCAB)
    search = ParallelSearch(model, ParallelSettings(candidates=4, nbest=4), rescorers=[judge])
    found = dict(search.decode([*rows, (99, [])], batch_tokens=60))
    own = dict(ParallelSearch(model, ParallelSettings(candidates=4, nbest=4)).decode(rows, batch_tokens=60))
    assert len(found) == 11
    assert any([h.ids for h in found[row]] != [h.ids for h in own[row]] for row, _ in rows)
    assert all(sorted(h.ids for h in found[row]) == sorted(h.ids for h in own[row]) for row, _ in rows)


@torch.inference_mode()
def test_a_translation_fills_the_positions_and_no_more() -> None:
    model = nat(copy_from="fertility")
    assert model.fertilities is not None
    model.fertilities.classes.bias[40] += 100.0
    (found,) = model.translate(torch.tensor([[5, 6, EOS]]), ParallelSettings())
    assert len(found[0].ids) == model.max_positions - 1


@pytest.mark.parametrize("copy_from", COPIES)
@torch.inference_mode()
def test_lower_precision(copy_from: CopyFrom) -> None:
    model = nat(copy_from=copy_from).to(torch.bfloat16)
    found = model.translate(padded(sentences(4)), ParallelSettings(candidates=2, nbest=2))
    assert all(outputs and np.isfinite(outputs[0].score) for outputs in found)


def test_rows_it_cannot_be_trained_on() -> None:
    rows = pair_lengths(source=[10, 300, 10], target=[12, 20, 200])
    uniform = nat(max_positions=250).unusable(rows)
    assert uniform[TOO_LONG].tolist() == [False, True, False]
    assert uniform[OUT_OF_REACH].tolist() == [False, True, True]
    assert list(nat(max_positions=250, copy_from="fertility").unusable(rows)) == [TOO_LONG]


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="one vocabulary"):
        nat(source_vocab=9)
    assert isinstance(nat(source_vocab=9, embeddings="decoder"), Nat)
