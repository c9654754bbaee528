"""The LSTM: loops equal their definitions; what is special to it. See also test_recurrent.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.nn import functional

from seqkd.models.lstm_loops import run_attentive, run_layer
from tests.unit.models.support import PAD, padded, small_lstm


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.double, requires_grad=True)


def test_a_layer_is_torchs_lstm() -> None:
    torch.manual_seed(0)
    reference = nn.LSTM(6, 5).double()
    x = numbers(7, 3, 6)
    # torch's order of gates: input, forget, cell, output
    order = torch.cat((torch.arange(10), torch.arange(15, 20), torch.arange(10, 15)))
    weights = {name: weight[order] for name, weight in reference.named_parameters()}
    gates = functional.linear(x, weights["weight_ih_l0"], weights["bias_ih_l0"] + weights["bias_hh_l0"])
    found = run_layer(gates[:, None], weights["weight_hh_l0"][None])
    torch.testing.assert_close(found[:, 0], reference(x)[0])


def attentive_by_definition(
    gates: Tensor,
    weight: Tensor,
    bias: Tensor,
    mix: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    start: Tensor,
    kept: Tensor | None,
) -> Tensor:
    cells, outputs = list(start), list(start.tanh())
    features, found = torch.zeros_like(start[0]), []
    for t in range(len(gates)):
        below = features
        for layer in range(len(weight)):
            added = gates[t] if layer == 0 else bias[layer - 1]
            sums = torch.cat((below, outputs[layer]), dim=-1) @ weight[layer].t() + added
            entry, forget, out, new = sums.chunk(4, dim=-1)
            cells[layer] = forget.sigmoid() * cells[layer] + entry.sigmoid() * new.tanh()
            outputs[layer] = out.sigmoid() * cells[layer].tanh()
            below = outputs[layer] if kept is None or layer == len(weight) - 1 else outputs[layer] * kept[layer, t]
        scores = torch.einsum("bd,bsd->bs", below, keys) + mask[:, 0]
        features = torch.tanh(torch.einsum("bs,bsd->bd", scores.softmax(-1), values) + below @ mix.t())
        found.append(features)
    return torch.stack(found)


@pytest.mark.parametrize(("layers", "dropped"), [(1, False), (3, False), (2, True)])
def test_the_decoders_loop_equals_its_definition(layers: int, dropped: bool) -> None:
    torch.manual_seed(1)
    length, batch, source, dim = 4, 3, 5, 2
    mask = torch.zeros(batch, 1, source, dtype=torch.double)
    mask[1, 0, 2:] = -math.inf
    kept = torch.rand(layers - 1, length, batch, dim, dtype=torch.double).gt(0.5) * 2.0 if dropped else None
    tensors = (
        numbers(length, batch, 4 * dim),
        numbers(layers, 4 * dim, 2 * dim),
        numbers(layers - 1, 4 * dim),
        numbers(dim, dim),
        numbers(batch, source, dim),
        numbers(batch, source, dim),
    )
    start = numbers(layers, batch, dim)
    expected = attentive_by_definition(*tensors, mask, start, kept)
    torch.testing.assert_close(run_attentive(*tensors, mask, start, kept), expected)

    def loop(
        gates: Tensor, weight: Tensor, bias: Tensor, mix: Tensor, keys: Tensor, values: Tensor, start: Tensor
    ) -> Tensor:
        return run_attentive(gates, weight, bias, mix, keys, values, mask, start, kept)

    assert gradcheck(loop, (*tensors, start))


def test_gradients_of_a_layer() -> None:
    torch.manual_seed(2)
    assert gradcheck(run_layer, (numbers(4, 2, 3, 8), numbers(2, 8, 2)))


def test_padding_gets_no_gradient() -> None:
    model = small_lstm(embeddings="separate")
    source = padded([3, 6], 1)
    model(source, padded([4, 4], 2)).sum().backward()
    grad = model.source_embedding.grad
    assert grad is not None
    assert grad[PAD].abs().max() == 0
    assert grad[source[0, 0]].abs().max() > 0


def test_both_directions_are_read() -> None:
    model = small_lstm(encoder=1)
    source, target = padded([6], 1), padded([3], 2)
    changed = source.clone()
    changed[0, 5] = 29 if source[0, 5] != 29 else 28
    with torch.no_grad():
        memory, other = model.encode(source), model.encode(changed)
    assert torch.equal(memory[:, :5, :8], other[:, :5, :8])
    assert not torch.isclose(memory[:, 0, 8:], other[:, 0, 8:]).all()
    with torch.no_grad():
        ends = model.decoder.first_cells(memory, torch.tensor([6]))
        again = model.decoder.first_cells(other, torch.tensor([6]))
    assert not torch.isclose(ends, again).all()
    assert model(source, target).shape == (1, 3, 30)


def test_dropout_is_drawn_from_torchs_seed_and_only_in_training() -> None:
    model = small_lstm().train()
    source, target = padded([4, 6], 1), padded([6, 5], 2)

    def features(seed: int) -> Tensor:
        torch.manual_seed(seed)
        with torch.no_grad():
            return model(source, target)  # type: ignore[no-any-return]

    assert torch.equal(features(1), features(1))
    assert not torch.equal(features(1), features(2))
    model.eval()
    assert torch.equal(features(1), features(2))


def test_odd_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="is odd"):
        small_lstm(dim=15)
