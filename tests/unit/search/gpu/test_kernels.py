"""The Triton kernels against plain torch; in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from seqkd.search.candidates import RowCandidates, top_candidates
from seqkd.search.gpu.operations import PLAIN, SelfCache
from tests.unit.search.gpu.support import DEVICE

pytest.importorskip("triton")

from seqkd.search.gpu.kernels import TRITON
from seqkd.search.gpu.output import candidates, fused_output
from tests.properties import examples

# NumPy says of NaN and infinity what a GPU does not.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# The interpreter has no bf16 arithmetic of its own: it multiplies the bits of such numbers and does not round them.
ROUNDED = DTYPES if DEVICE.type == "cuda" else [torch.float32, torch.float16]
# Relative to the norm: what one rounding of the storage type leaves.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == expected.dtype
    assert found.isfinite().all()
    error = (found.double() - expected.double()).norm() / expected.double().norm()
    assert error < TOLERANCE[dtype]


@dataclass
class Caches:
    """Random caches of five places, of which four groups use some, in another order."""

    cache: SelfCache
    ancestors: Tensor
    positions: Tensor
    lengths: Tensor
    source: Tensor
    places: Tensor

    @classmethod
    def draw(cls, *, beam: int, dim: int, dtype: torch.dtype, max_target: int = 21, max_source: int = 37) -> Caches:
        torch.manual_seed(beam)
        keys, values = torch.randn(2, 5, max_target, beam, dim, device=DEVICE, dtype=dtype).unbind()
        positions = torch.tensor([0, 20, 7, 1, 16], device=DEVICE)
        # What lies in the future must not be read: it may be anything.
        for place, position in enumerate(positions.tolist()):
            keys[place, position:] = math.nan
            values[place, position:] = math.nan
        source = torch.randn(5, max_source, 2 * dim, device=DEVICE, dtype=dtype)
        lengths = torch.tensor([1, 37, 33, 2, 15], device=DEVICE)
        for place, length in enumerate(lengths.tolist()):
            source[place, length:] = math.nan
        return cls(
            cache=SelfCache(keys=keys, values=values),
            ancestors=torch.randint(0, beam, (5, beam, max_target), dtype=torch.uint8, device=DEVICE),
            positions=positions,
            lengths=lengths,
            source=source,
            places=torch.tensor([3, 1, 0, 2], device=DEVICE),
        )


def by_hand(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query `[heads, size]` over `[length, heads, size]`, in double precision."""
    scores = torch.einsum("hd,lhd->hl", query.double(), keys.double()) * query.size(1) ** -0.5
    return torch.einsum("hl,lhd->hd", scores.softmax(dim=1), values.double())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("beam", "heads", "size"), [(1, 2, 16), (5, 2, 8), (3, 1, 24), (11, 2, 16)])
def test_self_attention_follows_the_ancestors(beam: int, heads: int, size: int, dtype: torch.dtype) -> None:
    dim = heads * size
    mine = Caches.draw(beam=beam, dim=dim, dtype=dtype)
    before = SelfCache(keys=mine.cache.keys.clone(), values=mine.cache.values.clone())
    qkv = torch.randn(len(mine.places) * beam, 3 * dim, device=DEVICE, dtype=dtype)
    found = TRITON.self_attention(qkv, mine.cache, mine.ancestors, mine.positions, mine.places, heads)
    expected = torch.empty(len(qkv), heads, size, dtype=torch.float64)
    for row, (query, key, value) in enumerate(zip(*qkv.view(-1, 3, heads, size).unbind(1), strict=True)):
        place, k = int(mine.places[row // beam]), row % beam
        position = int(mine.positions[place])
        writers = mine.ancestors[place, k, :position].long()
        steps = torch.arange(position, device=DEVICE)
        keys = before.keys[place, steps, writers].view(-1, heads, size)
        values = before.values[place, steps, writers].view(-1, heads, size)
        expected[row] = by_hand(query, torch.cat((keys, key[None])), torch.cat((values, value[None])))
        torch.testing.assert_close(mine.cache.keys[place, position, k], key.flatten())
        torch.testing.assert_close(mine.cache.values[place, position, k], value.flatten())
        before.keys[place, position, k], before.values[place, position, k] = key.flatten(), value.flatten()
    close(found, expected.view(len(qkv), dim).to(found), dtype)
    # Nothing else was written, in these places or others.
    torch.testing.assert_close(mine.cache.keys, before.keys, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(mine.cache.values, before.values, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize(("beam", "heads", "size"), [(1, 2, 16), (5, 2, 8), (3, 1, 24), (17, 2, 16)])
def test_cross_attention_stops_at_each_source_length(beam: int, heads: int, size: int, dtype: torch.dtype) -> None:
    dim = heads * size
    mine = Caches.draw(beam=beam, dim=dim, dtype=dtype)
    query = torch.randn(len(mine.places) * beam, dim, device=DEVICE, dtype=dtype)
    found = TRITON.cross_attention(query, mine.source, mine.lengths, mine.places, heads)
    expected = torch.empty(len(query), heads, size, dtype=torch.float64)
    for row, one in enumerate(query.view(-1, heads, size)):
        place = int(mine.places[row // beam])
        keys, values = mine.source[place, : int(mine.lengths[place])].view(-1, 2, heads, size).unbind(1)
        expected[row] = by_hand(one, keys, values)
    close(found, expected.view(len(query), dim).to(found), dtype)


@pytest.mark.parametrize("dtype", ROUNDED)
def test_the_plain_operations_agree(dtype: torch.dtype) -> None:
    beam, heads, dim = 5, 2, 32
    mine, other = (Caches.draw(beam=beam, dim=dim, dtype=dtype) for _ in range(2))
    for caches in (mine, other):
        # Masked out is not unread: plain torch multiplies these by zero.
        for tensor in (caches.cache.keys, caches.cache.values, caches.source):
            tensor.nan_to_num_(0.0)
    qkv = torch.randn(4 * beam, 3 * dim, device=DEVICE, dtype=dtype)
    attended, plain = (
        operations.self_attention(qkv, caches.cache, caches.ancestors, caches.positions, caches.places, heads)
        for operations, caches in ((TRITON, mine), (PLAIN, other))
    )
    close(attended, plain, dtype)
    assert torch.equal(mine.cache.keys, other.cache.keys)
    assert torch.equal(mine.cache.values, other.cache.values)
    query = qkv[:, :dim].contiguous()
    crossed, plain = (
        operations.cross_attention(query, mine.source, mine.lengths, mine.places, heads)
        for operations in (TRITON, PLAIN)
    )
    close(crossed, plain, dtype)


@examples(25)
@given(beam=st.integers(1, 12), max_target=st.integers(1, 200), seed=st.integers(0, 999))
def test_ancestors_are_followed_in_place(beam: int, max_target: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    ancestors = torch.randint(0, beam, (4, beam, max_target), dtype=torch.uint8, generator=draw).to(DEVICE)
    parents = torch.randint(0, beam, (3, beam), generator=draw).to(DEVICE)
    positions = torch.randint(0, max_target, (4,), generator=draw).to(DEVICE)
    places = torch.randperm(4, generator=draw)[:3].to(DEVICE)
    found, plain, expected = ancestors.clone(), ancestors.clone(), ancestors.clone()
    for group, place in enumerate(places.tolist()):
        position = int(positions[place])
        for k, parent in enumerate(parents[group].tolist()):
            expected[place, k, :position] = ancestors[place, parent, :position]
            if position:
                expected[place, k, position - 1] = parent
    TRITON.follow(found, parents, positions, places)
    PLAIN.follow(plain, parents, positions, places)
    for place in range(4):
        position = int(positions[place]) if place in places else max_target
        assert torch.equal(found[place, :, :position], expected[place, :, :position])
        assert torch.equal(plain[place, :, :position], expected[place, :, :position])


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("dim", [24, 64])
def test_residual_and_norm(dim: int, dtype: torch.dtype) -> None:
    norm = nn.LayerNorm(dim, device=DEVICE, dtype=dtype)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        x, y = torch.randn(2, 7, dim, device=DEVICE, dtype=dtype).unbind()
        total, normed = TRITON.add_norm(x, y, norm)
        expected_total, expected = PLAIN.add_norm(x, y, norm)
    assert torch.equal(total, expected_total)
    close(normed, expected, dtype)


def check(found: RowCandidates, logits: Tensor, count: int, eos_id: int) -> None:
    """Against a stable sort: equal logits stand in the order of their ids."""
    logits = logits.float()
    values, ids = logits.sort(dim=-1, descending=True, stable=True)
    torch.testing.assert_close(found.lse, logits.logsumexp(-1), rtol=1e-5, atol=1e-5)
    assert torch.equal(found.values, values[:, :count])
    assert torch.equal(found.ids, ids[:, :count])
    assert torch.equal(found.eos, logits[:, eos_id])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("vocab", "count"), [(1, 1), (77, 12), (77, 77), (4097, 12), (9000, 130)])
def test_candidates_are_the_best_logits(vocab: int, count: int, dtype: torch.dtype) -> None:
    torch.manual_seed(vocab)
    # bf16 logits of thousands of pieces have many ties
    logits = (5 * torch.randn(3, vocab, device=DEVICE)).to(dtype)
    check(candidates(logits, count, vocab // 2), logits, count, vocab // 2)


@examples(20)
@given(
    vocab=st.integers(1, 400),
    count=st.integers(1, 40),
    kinds=st.integers(1, 5),
    seed=st.integers(0, 999),
)
def test_ties_go_to_the_lower_id(vocab: int, count: int, kinds: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits = (torch.randint(0, kinds, (2, vocab), generator=draw) - 2).float().to(DEVICE)
    logits[logits == 0] *= -1.0  # minus zero equals zero
    check(candidates(logits, count, 0), logits, min(count, vocab), 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("padding", "count"), [(0, 12), (51, 12), (51, 200), (300, 1)])
def test_a_bias_is_added_to_the_logits_in_float32(padding: int, count: int, dtype: torch.dtype) -> None:
    torch.manual_seed(padding)
    logits = torch.randn(3, 200 + padding, device=DEVICE).to(dtype)
    bias = (3 * torch.randn(200 + padding, device=DEVICE)).to(dtype)
    bias[7] = -1e4  # an imported model has this bias for a piece that it never writes
    logits[:, 200:] = bias[200:] = math.nan
    expected = logits[:, :200].float() + bias[:200].float()
    check(candidates(logits[:, :200], count, 2, bias), expected, count, 2)
    bias[70] = math.nan
    assert not candidates(logits[:, :200], count, 2, bias).lse.isfinite().any()


@pytest.mark.parametrize("padding", [1, 51, 300])
def test_padding_of_logits_is_ignored(padding: int) -> None:
    torch.manual_seed(padding)
    logits = torch.randn(3, 77 + padding, device=DEVICE)
    for value in (1e9, math.inf, math.nan):
        logits[:, 77:] = value
        check(candidates(logits[:, :77], 12, 2), logits[:, :77], 12, 2)
    check(candidates(logits.t()[:77].t(), 12, 2), logits[:, :77], 12, 2)
    across = torch.randn(77, 3, device=DEVICE).t()
    check(candidates(across, 12, 2), across, 12, 2)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 70, 299])
def test_nan_and_infinity_are_seen_and_ids_stay_valid(value: float, at: int) -> None:
    logits = torch.randn(3, 300, device=DEVICE)
    good = logits.clone()
    logits[1, at] = value
    found = candidates(logits, 12, 2)
    assert not found.lse[1].isfinite()
    assert found.ids.ge(0).all()
    assert found.ids.lt(300).all()
    for row in (0, 2):
        one = candidates(good[row : row + 1], 12, 2)
        assert torch.equal(found.values[row], one.values[0])
    everything = candidates(torch.full((1, 300), value, device=DEVICE), 12, 2)
    assert not everything.lse.isfinite().any()
    assert everything.ids.ge(0).all()
    assert everything.ids.lt(300).all()


def test_minus_infinity_is_a_logit_like_others() -> None:
    logits = torch.full((2, 5000), -math.inf, device=DEVICE)
    logits[0, 4321], logits[0, 17] = 1.0, 2.0
    found = candidates(logits, 4, 2)
    assert found.ids[0].tolist() == [17, 4321, 0, 1]
    assert found.lse[0].item() == pytest.approx(math.log(math.e + math.e**2))
    assert not found.lse[1].isfinite()


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize(
    ("rows", "vocab", "padding", "count", "biased"),
    [(3, 77, 51, 12, True), (3, 77, 0, 12, False), (130, 150, 10, 1, True), (2, 300, 20, 40, False)],
)
def test_fused_projection(rows: int, vocab: int, padding: int, count: int, dtype: torch.dtype, biased: bool) -> None:
    torch.manual_seed(rows)
    # small whole numbers: products and sums are exact whatever their order
    features = torch.randint(-4, 5, (rows, 48), device=DEVICE).to(dtype)
    weight = torch.randint(-4, 5, (vocab + padding, 48), device=DEVICE).to(dtype)
    bias = torch.randint(-40, 41, (vocab + padding,), device=DEVICE).to(dtype)
    logits = features.float() @ weight[:vocab].float().t()
    expected = top_candidates(logits + bias[:vocab].float() if biased else logits, count, 2)
    found = fused_output(features, weight, bias if biased else None, vocab, count, 2)
    torch.testing.assert_close(found.lse, expected.lse)
    assert torch.equal(found.values, expected.values)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.eos, expected.eos)
