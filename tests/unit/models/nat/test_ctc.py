"""The CTC student's decoding."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from seqkd.models.nat.ctc import NO_BLANKS, TOO_MANY, Ctc
from seqkd.models.protocol import TOO_LONG, Output, ParallelModel, ParallelSettings
from tests.unit.models.nat.ctc_dag import BLANK, EOS, PAD, ctc_model, source_of
from tests.unit.models.nat.support import pair_lengths


def frame_logprobs(model: Ctc, source: Tensor) -> Tensor:
    """`[batch, frames, vocab]`, with all of the vocabulary."""
    with torch.no_grad():
        memory = model.stack.encode(source)
        features = model.stack.decode(model.inputs(memory), model.frames(source), memory, source)
        return model.stack.project(features).double().log_softmax(-1)


def translate(model: Ctc, source: Tensor, settings: ParallelSettings) -> list[list[Output]]:
    with torch.inference_mode():
        return model.translate(source, settings)


def test_it_is_a_parallel_model() -> None:
    model = ctc_model()
    assert isinstance(model, ParallelModel)
    assert set(model.strategies()) == {"greedy", "beam"}


def test_rows_that_cannot_be_aligned_have_reasons() -> None:
    model = ctc_model(upsample=2)
    reasons = model.unusable(pair_lengths(source=[3, 3, 16, 1, 3], target=[8, 9, 2, 15, 7], repeats=[0, 0, 0, 0, 2]))
    assert list(reasons) == [TOO_LONG, TOO_MANY, NO_BLANKS]
    assert reasons[TOO_LONG].tolist() == [False, False, True, False, False]
    assert reasons[TOO_MANY].tolist() == [False, True, False, True, False]
    assert reasons[NO_BLANKS].tolist() == [False, True, False, True, True]
    reasons = model.unusable(pair_lengths(source=[3], target=[7], repeats=[1]))
    assert not any(marks.any() for marks in reasons.values())


def test_greedy_collapses_the_best_piece_of_each_frame() -> None:
    model = ctc_model(vocab=7, seed=3, upsample=4)
    rows = [[4, 5, 6, 4], [6, 6], [5]]
    outputs = translate(model, source_of(*rows), ParallelSettings())
    for row, (found,) in zip(rows, outputs, strict=True):
        table = frame_logprobs(model, source_of(row))[0]
        table[:, [PAD, EOS]] = -math.inf
        score, path = table.max(1)
        assert found.ids == [piece for piece, _ in itertools.groupby(path.tolist()) if piece != BLANK]
        assert found.score == pytest.approx(float(score.sum()), abs=1e-4)
        assert found.logprob == found.score
    assert any(len(found.ids) > 1 for (found,) in outputs)


def brute_force(table: Tensor) -> dict[tuple[int, ...], float]:
    """Log-probability of every output that some alignment over `[frames, vocab]` gives, without banned ids."""
    allowed = [piece for piece in range(table.size(1)) if piece not in (PAD, EOS)]
    scores = table.tolist()
    totals: dict[tuple[int, ...], list[float]] = {}
    for path in itertools.product(allowed, repeat=len(scores)):
        output = tuple(piece for piece, _ in itertools.groupby(path) if piece != BLANK)
        totals.setdefault(output, []).append(sum(frame[piece] for frame, piece in zip(scores, path, strict=True)))
    return {output: math.log(sum(map(math.exp, parts))) for output, parts in totals.items()}


@pytest.mark.parametrize("seed", range(6))
def test_a_wide_beam_finds_the_most_probable_outputs(seed: int) -> None:
    model = ctc_model(vocab=6, seed=seed)
    with torch.no_grad():
        model.stack.output_weight.mul_(3.0)
    rows = [[4, 5], [3, 3], [5]]
    wide = ParallelSettings(candidates=200, nbest=200)
    for row, found in zip(rows, translate(model, source_of(*rows), wide), strict=True):
        expected = brute_force(frame_logprobs(model, source_of(row))[0])
        assert {tuple(output.ids) for output in found} <= set(expected)
        assert len({tuple(output.ids) for output in found}) == len(found)
        assert len(found) == min(200, len(expected))
        best = sorted(expected.values(), reverse=True)[:10]
        assert [output.score for output in found[:10]] == pytest.approx(best, abs=1e-4)
        for output in found:
            assert output.logprob == pytest.approx(expected[tuple(output.ids)], abs=1e-4)


def test_a_beam_keeps_the_order_and_finds_no_less_than_greedy() -> None:
    model = ctc_model(vocab=12, seed=2, upsample=3)
    rows = [[4, 5, 6, 7], [8, 9], [10, 11, 4]]
    found = translate(model, source_of(*rows), ParallelSettings(candidates=6, nbest=3))
    best = translate(model, source_of(*rows), ParallelSettings())
    for outputs, (greedy,) in zip(found, best, strict=True):
        assert len(outputs) == 3
        assert [output.score for output in outputs] == sorted((output.score for output in outputs), reverse=True)
        assert outputs[0].logprob >= greedy.logprob - 1e-5
    one = translate(model, source_of(*rows), ParallelSettings(candidates=6, strategy="greedy"))
    assert one == best


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_batched_equals_single_and_padding_changes_nothing(strategy: str) -> None:
    model = ctc_model(vocab=12, seed=1, upsample=3)
    rows = [[4, 5, 6, 7, 8], [8, 9], [10, 11, 4], [5]]
    settings = ParallelSettings(strategy=strategy, candidates=4, nbest=4)  # type: ignore[arg-type]
    together = translate(model, source_of(*rows, room=9), settings)
    for row, found in zip(rows, together, strict=True):
        (alone,) = translate(model, source_of(row), settings)
        assert [output.ids for output in found] == [output.ids for output in alone]
        assert [output.score for output in found] == pytest.approx([output.score for output in alone], abs=1e-4)


def test_banned_pieces_are_never_written() -> None:
    model = ctc_model(vocab=8, upsample=3)
    with torch.no_grad():
        model.stack.decoder_norm = torch.nn.LayerNorm(16)
        model.stack.decoder_norm.bias.fill_(0.5)
        model.stack.output_weight[[PAD, EOS]] += 2.0
    for candidates in (1, 5):
        for outputs in translate(model, source_of([4, 5, 6], [7]), ParallelSettings(candidates=candidates)):
            assert all(piece not in (BLANK, PAD, EOS) for piece in outputs[0].ids)
