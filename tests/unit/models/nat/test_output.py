from __future__ import annotations

import pytest
import torch

from seqkd.models.nat.output import best_pieces, top_pieces


@pytest.mark.parametrize("chunk", [1, 100, 1 << 20])
@pytest.mark.parametrize("count", [1, 3, 50])
def test_equals_the_whole_output_layer(chunk: int, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    features, weight = torch.randn(13, 8, generator=generator), torch.randn(20, 8, generator=generator)
    logits, ids, sums = top_pieces(features, weight, count, banned=(3, 7), elements=chunk)
    plain = features @ weight.t()
    torch.testing.assert_close(sums, plain.logsumexp(-1))
    assert torch.equal(best_pieces(features, weight, elements=chunk), plain.argmax(-1))
    plain[:, [3, 7]] = -torch.inf
    torch.testing.assert_close(logits, plain.topk(min(count, 18)).values)
    torch.testing.assert_close(plain.gather(1, ids), logits)
