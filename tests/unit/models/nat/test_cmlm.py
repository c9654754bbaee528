from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkd.models.nat.cmlm import Cmlm, count_masked, least_probable
from seqkd.models.nat.lengths import OUT_OF_REACH
from seqkd.models.protocol import TOO_LONG, ParallelModel, ParallelSettings
from tests.unit.models.nat.support import EOS, PAD, cmlm, padded, pair_lengths, sentences


@given(st.integers(1, 40), st.integers(1, 12))
def test_masks_decay_evenly_from_all(length: int, iterations: int) -> None:
    counts = [int(count_masked(torch.tensor([length]), each, iterations)) for each in range(iterations)]
    assert counts[0] == length
    assert counts == [int(length * (1 - each / iterations) + 1e-9) for each in range(iterations)]
    assert counts[-1] == length // iterations


def test_the_least_probable_are_masked_of_equals_the_leftmost() -> None:
    logprobs = torch.tensor([[-1.0, -3.0, -1.0, -2.0, 0.0], [-1.0, -1.0, 0.0, 0.0, 0.0]])
    inner = torch.tensor([[True, True, True, True, False], [True, True, False, False, False]])
    for counts, expected in (
        ([3, 1], [[True, True, False, True, False], [True, False, False, False, False]]),
        ([0, 5], [[False] * 5, [True, True, False, False, False]]),
    ):
        assert least_probable(logprobs, inner, torch.tensor(counts)).tolist() == expected


def mask_predict(model: Cmlm, source: list[int], length: int, iterations: int) -> tuple[list[int], float]:
    """One sentence, one length, one token after another."""
    ids, chances = [model.mask_id] * length, [0.0] * length
    row = torch.tensor([source])
    memory, real = model.encode(row), torch.ones(1, length + 1, dtype=torch.bool)
    for iteration in range(iterations):
        count = length * (iterations - iteration) // iterations
        again = sorted(range(length), key=lambda place: chances[place])[:count]
        read = [model.mask_id if place in again else ids[place] for place in range(length)]
        features = model.decode_features(torch.tensor([[*read, EOS]]), real, memory, row)
        logprobs = model.stack.project(features)[0].log_softmax(-1)
        logprobs[:, [PAD, EOS]] = float("-inf")
        for place in again:
            ids[place], chances[place] = int(logprobs[place].argmax()), float(logprobs[place].max())
    return ids, sum(chances)


@pytest.mark.parametrize("iterations", [1, 3, 10])
@torch.inference_mode()
def test_translating_equals_its_definition(iterations: int) -> None:
    model = cmlm()
    settings = ParallelSettings(iterations=iterations, candidates=3, nbest=3)
    changed = 0
    for row in sentences(6):
        source = torch.tensor([row])
        lengths = model.lengths.candidates(model.encode(source), source.ne(PAD), 3, model.max_positions)
        expected = []
        for length, prior in zip(lengths.lengths[0].tolist(), lengths.logprobs[0].tolist(), strict=True):
            ids, logprob = mask_predict(model, row, length - 1, iterations)
            expected.append((ids, (logprob + prior) / len(ids)))
            changed += ids != mask_predict(model, row, length - 1, 1)[0]
        expected.sort(key=lambda pair: -pair[1])
        (found,) = model.translate(source, settings)
        assert [output.ids for output in found] == [ids for ids, _ in expected]
        assert [output.score for output in found] == pytest.approx([score for _, score in expected], abs=1e-4)
    assert (changed > 0) == (iterations > 1)


@torch.inference_mode()
def test_batched_equals_alone_and_padding_changes_nothing() -> None:
    model, settings = cmlm(), ParallelSettings(iterations=4, candidates=3, nbest=3)
    rows = sentences(12)
    for row, found in zip(rows, model.translate(padded(rows), settings), strict=True):
        for room in (0, 17):
            (alone,) = model.translate(padded([row], room), settings)
            assert [output.ids for output in alone] == [output.ids for output in found]
            assert [output.score for output in alone] == pytest.approx([output.score for output in found], abs=1e-5)
            assert all(output.ids and not {PAD, EOS, model.mask_id} & set(output.ids) for output in found)


def test_it_is_a_parallel_model() -> None:
    model = cmlm(max_positions=250, embeddings="separate")
    assert isinstance(model, ParallelModel)
    reasons = model.unusable(pair_lengths(source=[10, 300, 10], target=[12, 20, 200]))
    assert list(reasons) == [TOO_LONG, OUT_OF_REACH]
    assert reasons[OUT_OF_REACH].tolist() == [False, True, True]
    with torch.inference_mode():
        found = model.to(torch.bfloat16).translate(padded(sentences(4)), ParallelSettings(iterations=3))
    assert all(np.isfinite(outputs[0].score) for outputs in found)
