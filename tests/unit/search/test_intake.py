"""Which sentences wait, in which order, and what becomes of a batch that does not fit."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkd.errors import WorkError
from seqkd.search.intake import LOGITS_BYTES, Intake, Sentence, most_together, out_of_memory
from tests.unit.search.support import MEMORY_ERRORS


def of_lengths(lengths: list[int], *, batch_tokens: int, max_positions: int = 100) -> Intake:
    rows = (Sentence(row, [4] * length) for row, length in enumerate(lengths))
    return Intake(rows, max_positions=max_positions, batch_tokens=batch_tokens)


def waiting(intake: Intake) -> list[tuple[int, int]]:
    return [(sentence.row, len(sentence.source)) for sentence in intake.queue]


def test_the_longest_that_fit_come_first_and_those_that_do_not_are_named() -> None:
    intake = of_lengths([2, 0, 6, 5, 9, 2], batch_tokens=12, max_positions=6)
    assert intake.empty == [1]
    assert intake.too_long == [2, 4]
    assert waiting(intake) == [(3, 5), (0, 2), (5, 2)]
    assert (intake.width, intake.count) == (6, 2)


@given(st.lists(st.integers(1, 20), min_size=1), st.integers(1, 60))
def test_a_batch_is_within_the_budget_unless_one_sentence_is_not(lengths: list[int], budget: int) -> None:
    intake = of_lengths(lengths, batch_tokens=budget)
    assert 1 <= intake.count <= len(lengths)
    assert intake.count == 1 or intake.count * intake.width <= budget
    assert intake.count == len(lengths) or (intake.count + 1) * intake.width > budget


def test_short_sentences_form_no_larger_batch_than_their_logits_allow() -> None:
    rows = [Sentence(row, [4] * length) for row, length in enumerate([9, 1, 1, 1])]
    intake = Intake(rows, max_positions=100, batch_tokens=12, most=2)
    assert intake.count == 1  # the longest fills it
    intake.queue.popleft()
    assert intake.count == 2
    most = most_together(torch.device("cuda"), vocab=256_206, beam=5)
    assert most is not None
    assert most * 5 * 256_206 * 4 <= LOGITS_BYTES < 2 * most * 5 * 256_206 * 4
    assert most == 256
    assert most_together(torch.device("cuda"), vocab=10**9, beam=64) == 1
    assert most_together(torch.device("cpu"), vocab=256_206, beam=5) is None


def test_batches_are_counted_in_the_width_of_their_caches() -> None:
    rows = [Sentence(row, [4] * length) for row, length in enumerate([9, 9, 9, 9, 9, 9])]
    intake = Intake(rows, max_positions=100, batch_tokens=64, cache_width=lambda width: 16 if width > 8 else 8)
    assert (intake.width, intake.count) == (16, 4)
    taken = [intake.queue.popleft() for _ in range(4)]
    intake.put_back(MemoryError(), taken, count=4, width=intake.width)
    assert (intake.batch_tokens, intake.count, len(intake.queue)) == (32, 2, 6)


def test_a_batch_that_does_not_fit_waits_again_and_the_next_ones_are_half_as_large(
    capfd: pytest.CaptureFixture[str],
) -> None:
    intake = of_lengths([5, 4, 5, 3, 1], batch_tokens=18)
    before, width, count = waiting(intake), intake.width, intake.count
    batch = [intake.queue.popleft() for _ in range(count)]
    intake.put_back(torch.OutOfMemoryError(), reversed(batch[1:]), count=count, width=width)
    assert waiting(intake) == before[1:]  # the first was done
    assert (intake.batch_tokens, intake.count) == (9, 1)
    assert "out of memory with 3 sentences; continuing with 9 tokens" in capfd.readouterr().err
    one = [intake.queue.popleft()]
    with pytest.raises(WorkError, match=f"row {one[0].row}: one sentence alone does not fit"):
        intake.put_back(MemoryError(), one, count=1, width=intake.width)


def test_other_errors_are_passed_on() -> None:
    intake = of_lengths([3, 2], batch_tokens=8)
    with pytest.raises(RuntimeError, match="shapes differ"):
        intake.put_back(RuntimeError("shapes differ"), [], count=2, width=4)


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=str)
def test_every_kind_of_failed_allocation_is_recognised(error: Exception) -> None:
    assert out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        WorkError("a translation may say: out of memory"),
    ],
    ids=str,
)
def test_other_failures_are_not_taken_for_failed_allocations(error: Exception) -> None:
    assert not out_of_memory(error)


class Memory:
    """On a device."""


def test_memory_is_freed_after_a_failed_batch_has_gone_and_only_then() -> None:
    intake = of_lengths([3, 3, 3], batch_tokens=8)
    held: list[weakref.ref[Memory]] = []
    emptied: list[int] = []

    def work(count: int) -> None:
        memory = Memory()
        held.append(weakref.ref(memory))
        if count > 1:
            raise RuntimeError("CUDA error: out of memory")

    def decode() -> Iterator[int]:
        count, width = intake.count, intake.width
        batch = [intake.queue.popleft() for _ in range(count)]
        try:
            work(count)
        except RuntimeError as error:
            assert held[-1]() is not None  # the error still holds its frames
            intake.put_back(error, batch, count=count, width=width)
            return
        yield from (sentence.row for sentence in batch)

    def empty_cache() -> None:
        assert held[-1]() is None
        emptied.append(len(held))

    assert list(intake.drain(decode, empty_cache=empty_cache)) == [0, 1, 2]
    assert emptied == [1]
    assert len(held) == 4
