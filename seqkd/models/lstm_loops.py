"""LSTM recurrences over whole sequences, with in-place steps and hand-written backward passes.

Everything that does not depend on the step before is one product over all steps, before or after the loop: the input
part of the gates, the keys and values of attention, and all gradients of weights. A step consists of one product for
each layer, and the cell. Shapes begin with the steps, so that each step is contiguous.

Under autocast, products use its type; cells and attention stay in float32.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from seqkd.models.functional import ROUND_ROWS, pad_rows

STEP_ROWS = 32  # products in a lower type pad batches to multiples of this; see `seqkd.models.functional`


def advance_cell(gates: Tensor, before: Tensor, after: Tensor, squashed: Tensor, hidden: Tensor) -> None:
    """Advance an LSTM cell (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000), in place.

    Args:
        gates: `[..., 4 * dim]`, the input, forget and output gates and the input of the cell, before their sigmoids and
            tanh, which are applied in place.
        before: `[..., dim]`, the cell.
        after: `[..., dim]`, receives the new cell; it may be `before`.
        squashed: `[..., dim]`, receives the tanh of the new cell.
        hidden: `[..., dim]`, receives the output.
    """
    width = before.size(-1)
    gates[..., : 3 * width].sigmoid_()
    gates[..., 3 * width :].tanh_()
    entry, keep, out, new = gates.chunk(4, dim=-1)
    torch.mul(before, keep, out=after).addcmul_(entry, new)
    torch.tanh(after, out=squashed)
    torch.mul(out, squashed, out=hidden)


def _cell_gradients(
    to_hidden: Tensor, to_cell: Tensor, gates: Tensor, before: Tensor, squashed: Tensor, to_gates: Tensor
) -> None:
    """Run `advance_cell` backwards: fill `to_gates`, and turn the new cell's gradient `to_cell` into the old one's."""
    width = before.size(-1)
    entry, keep, out, new = gates.chunk(4, dim=-1)
    to_cell.add_(torch.ops.aten.tanh_backward(to_hidden * out, squashed))
    torch.mul(to_cell, new, out=to_gates[..., :width])
    torch.mul(to_cell, before, out=to_gates[..., width : 2 * width])
    torch.mul(to_hidden, squashed, out=to_gates[..., 2 * width : 3 * width])
    torch.mul(to_cell, entry, out=to_gates[..., 3 * width :])
    sigmoids, tanhs = to_gates[..., : 3 * width], to_gates[..., 3 * width :]
    torch.ops.aten.sigmoid_backward(sigmoids, gates[..., : 3 * width], grad_input=sigmoids)
    torch.ops.aten.tanh_backward(tanhs, new, grad_input=tanhs)
    to_cell.mul_(keep)


def _product_type(like: Tensor) -> torch.dtype:
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else like.dtype


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type of cells and sums for products in `dtype`."""
    return torch.promote_types(dtype, torch.float32)


def _rows(batch: int, dtype: torch.dtype) -> int:
    return batch if dtype == _wide(dtype) else -(-batch // STEP_ROWS) * STEP_ROWS


def _empty_tail(shape: tuple[int, ...], batch: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Make `[..., rows, width]`, in which rows beyond the batch are zeros and the others are uninitialised."""
    full = torch.empty(shape, dtype=dtype, device=device)
    full[..., batch:, :] = 0
    return full


def _weight_gradient(to_outputs: Tensor, inputs: Tensor) -> Tensor:
    """Compute the gradient of a weight over all rows: `[rows, outputs]`, `[rows, inputs]` to `[outputs, inputs]`."""
    if to_outputs.dtype == _wide(to_outputs.dtype):
        return to_outputs.t() @ inputs
    multiple = ROUND_ROWS
    return pad_rows(to_outputs, to_outputs.dtype, multiple).t() @ pad_rows(inputs, inputs.dtype, multiple)


# --- the encoder ------------------------------------------------------------------------------------------------


def run_layer(gates: Tensor, weight: Tensor) -> Tensor:
    """Run an LSTM layer in several directions at once, from a state of zeros.

    Args:
        gates: `[length, directions, batch, 4 * dim]`, the input part of the gates, with biases.
        weight: `[directions, 4 * dim, dim]`, the recurrent weights.

    Returns:
        `[length, directions, batch, dim]`.
    """
    low = _product_type(weight)
    with torch.autocast(gates.device.type, enabled=False):
        outputs = cast(Tensor, _Layer.apply(gates.to(_wide(low)), weight, low))  # type: ignore[no-untyped-call]
    return outputs.to(weight.dtype)


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, low: torch.dtype) -> Tensor:
        length, directions, batch, wide = gates.shape
        dim, rows, device = wide // 4, _rows(batch, low), gates.device
        turned = weight.detach().to(low).transpose(1, 2)
        product = torch.empty(directions, rows, wide, dtype=low, device=device)
        inputs = _empty_tail((length + 1, directions, rows, dim), batch, low, device)
        inputs[0] = 0
        cells = torch.empty(length + 1, directions, batch, dim, dtype=gates.dtype, device=device)
        cells[0] = 0
        squashed = torch.empty_like(cells[1:])
        outputs = torch.empty_like(squashed)
        acts = torch.empty_like(gates)
        for t in range(length):
            torch.bmm(inputs[t], turned, out=product)
            acts[t].copy_(product[:, :batch]).add_(gates[t])
            advance_cell(acts[t], cells[t], cells[t + 1], squashed[t], outputs[t])
            inputs[t + 1, :, :batch] = outputs[t]
        ctx.save_for_backward(turned, inputs, cells, squashed, acts)
        ctx.weight_type = weight.dtype
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        turned, inputs, cells, squashed, acts = ctx.saved_tensors
        length, directions, batch, wide = acts.shape
        low, device = inputs.dtype, acts.device
        weight = turned.transpose(1, 2)
        to_product = _empty_tail((directions, length, inputs.size(2), wide), batch, low, device)
        to_gates = torch.empty_like(acts[0])
        to_cell = torch.zeros_like(cells[0])
        to_hidden = grads[0][length - 1]
        for t in range(length - 1, -1, -1):
            _cell_gradients(to_hidden, to_cell, acts[t], cells[t], squashed[t], to_gates)
            to_product[:, t, :batch] = to_gates
            if t:
                back = torch.bmm(to_product[:, t], weight)[:, :batch]
                to_hidden = grads[0][t - 1] + back.to(acts.dtype)
        to_weight = [
            _weight_gradient(to_product[d].flatten(0, 1), inputs[:-1, d].flatten(0, 1)) for d in range(directions)
        ]
        return (
            to_product[:, :, :batch].transpose(0, 1).to(acts.dtype),
            torch.stack(to_weight).to(ctx.weight_type),
            None,
        )


# --- the decoder ------------------------------------------------------------------------------------------------


def run_attentive(
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
    """Run stacked LSTM layers with general attention and input feeding (Luong et al. 2015, sections 3.1 and 3.3).

    Args:
        gates: `[length, batch, 4 * dim]`, the embedding part of the first layer's gates, with biases.
        weight: `[layers, 4 * dim, 2 * dim]`, the weights of a layer's input (the features of the last step for the
            first layer, the layer below for the others) and of its own output at the step before.
        bias: `[layers - 1, 4 * dim]`, the biases of the gates of the layers above the first.
        mix: `[dim, dim]`, the weights of the last layer in the features, before their tanh.
        keys: `[batch, source, dim]`, the keys of attention.
        values: `[batch, source, dim]`, the values of attention: the memory's part of the features, before their tanh.
        mask: `[batch, 1, source]`, added to the scores of attention, -inf where there is no token.
        start: `[layers, batch, dim]`, the cells before the first step. The outputs of the layers before it are their
            tanh, and the features before it are zeros.
        kept: `[layers - 1, length, batch, dim]`, the dropout factors of the layers' outputs on the way up.

    Returns:
        Features `[length, batch, dim]`.
    """
    low = _product_type(weight)
    wide = _wide(low)
    with torch.autocast(gates.device.type, enabled=False):
        moved = (gates.to(wide), weight, bias, mix, keys.to(wide), values.to(wide), mask.to(wide), start.to(wide))
        features = cast(Tensor, _Attentive.apply(*moved, kept, low))  # type: ignore[no-untyped-call]
    return features.to(weight.dtype)


class _Attentive(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        gates: Tensor,
        weight: Tensor,
        bias: Tensor,
        mix: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor,
        start: Tensor,
        kept: Tensor | None,
        low: torch.dtype,
    ) -> Tensor:
        length, batch, dim = len(gates), len(keys), keys.size(2)
        layers, rows, device, wide = len(weight), _rows(len(keys), low), gates.device, gates.dtype

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=wide, device=device)

        turned = weight.detach().to(low).transpose(1, 2)
        mix_turned = mix.detach().to(low).t()
        bias_wide = bias.detach().to(wide)
        across = keys.transpose(1, 2)
        product = torch.empty(rows, 4 * dim, dtype=low, device=device)
        mixed = torch.empty(rows, dim, dtype=low, device=device)
        # [..., :dim] is read from the features or the layer below, [..., dim:] from the step before
        inputs = _empty_tail((layers, length + 1, rows, 2 * dim), batch, low, device)
        inputs[0, 0, :, :dim] = 0
        inputs[:, 0, :batch, dim:] = start.tanh()
        cells = empty(layers, length + 1, batch, dim)
        cells[:, 0] = start
        acts, squashed = empty(layers, length, batch, 4 * dim), empty(layers, length, batch, dim)
        outputs = empty(length, batch, dim)  # the outputs of the last layer
        hidden = empty(batch, dim)
        attention = empty(length, batch, 1, keys.size(1))
        features = empty(length, batch, dim)
        for t in range(length):
            for layer in range(layers):
                torch.mm(inputs[layer, t], turned[layer], out=product)
                act = acts[layer, t].copy_(product[:batch]).add_(bias_wide[layer - 1] if layer else gates[t])
                out = outputs[t] if layer == layers - 1 else hidden
                advance_cell(act, cells[layer, t], cells[layer, t + 1], squashed[layer, t], out)
                inputs[layer, t + 1, :batch, dim:] = out
                if layer < layers - 1:
                    inputs[layer + 1, t, :batch, :dim] = out if kept is None else out * kept[layer, t]
            torch.baddbmm(mask, outputs[t][:, None], across, out=attention[t])
            torch.softmax(attention[t], dim=-1, out=attention[t])
            torch.mm(inputs[layers - 1, t + 1, :, dim:], mix_turned, out=mixed)
            torch.bmm(attention[t], values, out=features[t][:, None])
            features[t].add_(mixed[:batch]).tanh_()
            inputs[0, t + 1, :batch, :dim] = features[t]
        saved = (turned, mix_turned, keys, values, kept, inputs, cells, acts, squashed, outputs, attention, features)
        ctx.save_for_backward(*saved)
        ctx.types = (weight.dtype, bias.dtype, mix.dtype)
        return features

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        turned, mix_turned, keys, values, kept, inputs, cells, acts, squashed, outputs, attention, features = (
            ctx.saved_tensors
        )
        layers, length, batch, _ = acts.shape
        dim, low, wide, device = keys.size(2), inputs.dtype, acts.dtype, acts.device
        rows = inputs.size(2)
        weight, mix = turned.transpose(1, 2), mix_turned.t()
        across = values.transpose(1, 2)
        product = torch.empty(rows, 2 * dim, dtype=low, device=device)
        to_gates = torch.empty_like(acts[0, 0])
        to_products = _empty_tail((layers, length, rows, 4 * dim), batch, low, device)
        to_mixed = _empty_tail((length, rows, dim), batch, low, device)
        to_sums = torch.ops.aten.tanh_backward(grads[0], features)
        slope = 1 - features * features
        to_scores = torch.empty_like(attention)
        to_cells = torch.zeros_like(cells[:, 0])
        to_outputs = torch.zeros_like(to_cells)  # the gradient at the current step from the step after it
        for t in range(length - 1, -1, -1):
            # to_sums[t] already holds the contribution of the step after
            to_mixed[t, :batch] = to_sums[t]
            torch.bmm(to_sums[t][:, None], across, out=to_scores[t])
            torch.ops.aten._softmax_backward_data(to_scores[t], attention[t], -1, wide, grad_input=to_scores[t])
            above = torch.mm(to_mixed[t], mix)[:batch].to(wide)
            above.add_(torch.bmm(to_scores[t], keys)[:, 0])
            for layer in range(layers - 1, -1, -1):
                to_out = to_outputs[layer].add_(above)
                _cell_gradients(to_out, to_cells[layer], acts[layer, t], cells[layer, t], squashed[layer, t], to_gates)
                to_products[layer, t, :batch] = to_gates
                torch.mm(to_products[layer, t], weight[layer], out=product)
                to_outputs[layer] = product[:batch, dim:]
                above = product[:batch, :dim].to(wide)
                if layer and kept is not None:
                    above = above * kept[layer - 1, t]
            if t:
                to_sums[t - 1].addcmul_(slope[t - 1], above)
        to_weight = torch.stack(
            [
                _weight_gradient(to_products[layer].flatten(0, 1), inputs[layer, :-1].flatten(0, 1))
                for layer in range(layers)
            ]
        )
        to_mix = _weight_gradient(to_mixed.flatten(0, 1), inputs[-1, 1:, :, dim:].flatten(0, 1))
        scores, weights = to_scores[:, :, 0].permute(1, 2, 0), attention[:, :, 0].permute(1, 2, 0)
        weight_type, bias_type, mix_type = ctx.types
        before = inputs[:, 0, :batch, dim:].to(wide)
        return (
            to_products[0, :, :batch].to(wide),
            to_weight.to(weight_type),
            to_products[1:].sum(dim=(1, 2), dtype=wide).to(bias_type),
            to_mix.to(mix_type),
            torch.bmm(scores, outputs.transpose(0, 1)),
            torch.bmm(weights, to_sums.transpose(0, 1)),
            None,
            to_cells + to_outputs * (1 - before * before),
            None,
            None,
        )
