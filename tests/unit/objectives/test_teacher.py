from __future__ import annotations

from typing import Any

import pytest
import torch

from seqkd.models.registry import build
from seqkd.objectives.projection import ROUND_ROWS
from seqkd.objectives.teacher import Projection, Teacher, chunk_rows
from tests.unit.objectives.support import batch_of

VOCAB = 20
CPU = torch.device("cpu")
BATCH = batch_of([([5, 6], [8, 9, 10]), ([7], [11]), ([12, 13, 14, 15], [4, 5, 6, 7, 8, 9])])
SHAPE = {"dim": 16, "heads": 2, "ffn_dim": 16, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.5}


def model_of(seed: int, arch: str = "transformer") -> Any:
    torch.manual_seed(seed)
    return build(arch, SHAPE, source_vocab=VOCAB, target_vocab=VOCAB).eval()


def test_chunks_are_of_few_shapes_and_never_empty() -> None:
    assert chunk_rows(8000, CPU) % ROUND_ROWS == 0
    assert chunk_rows(1 << 30, CPU) == 1


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_members_are_averaged_in_probability(temperature: float) -> None:
    models = [model_of(1), model_of(2, "sru")]
    found = Teacher(models)(BATCH).logprobs(0, BATCH.tokens, temperature)
    wanted = torch.stack(
        [(model(BATCH.source, BATCH.target_in).flatten(0, 1)[BATCH.kept] / temperature).softmax(-1) for model in models]
    ).mean(0)
    torch.testing.assert_close(found.exp(), wanted.detach())
    assert not found.requires_grad


@pytest.mark.parametrize("elements", [1, 3 * VOCAB, None])
def test_chunks_do_not_change_what_it_says(elements: int | None) -> None:
    whole = Teacher([model_of(1)])(BATCH).logprobs(0, BATCH.tokens)
    step, asked = chunk_rows(VOCAB, CPU, elements), Teacher([model_of(1)], elements=elements)(BATCH)
    parts = [asked.logprobs(start, min(start + step, BATCH.tokens)) for start in range(0, BATCH.tokens, step)]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_a_projection_fills_rows_up_and_gives_the_real_ones() -> None:
    features, weight = torch.randn(70, 6), torch.randn(30, 6)
    projection = Projection(features, weight, torch.float32)
    assert len(projection.rows) == 128
    torch.testing.assert_close(projection.logits(64, 70), features[64:] @ weight.t())
    assert Projection(features, weight, torch.bfloat16).logits(0, 70).dtype == torch.float32


def test_its_type_is_its_own_whatever_the_students() -> None:
    model = model_of(1)
    wanted = Teacher([model])(BATCH).logprobs(0, BATCH.tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exact = Teacher([model])(BATCH).logprobs(0, BATCH.tokens)
        rough = Teacher([model], autocast=torch.bfloat16)(BATCH).logprobs(0, BATCH.tokens)
    assert torch.equal(exact, wanted)
    assert not torch.equal(rough, wanted)
    torch.testing.assert_close(rough, wanted, rtol=0.05, atol=0.05)
