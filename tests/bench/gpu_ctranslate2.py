"""CTranslate2 as a peer of the GPU engine, with the same weights."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from seqkd.models.transformer import Transformer

if TYPE_CHECKING:
    from tests.bench.gpu import Scale, Sources

COMPUTE = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float32"}
END = "</s>"


def ctranslate2(
    model: Transformer,
    scale: Scale,
    sources: Sources,
    lengths: Sequence[int],
    device: torch.device,
    *,
    nbest: int,
    sampling: bool = False,
    batches: Sequence[int] = (128, 256, 512),
) -> dict[str, Any] | None:
    """Its best speed over some sizes of batches; None where it is not installed or cannot use the device.

    A batch runs for as many tokens as our outputs of it have on average, as Hugging Face's does. Beam search keeps
    `scale.beam` hypotheses; sampling draws `nbest` from all pieces.
    """
    if importlib.util.find_spec("ctranslate2") is None:
        return None
    import ctranslate2 as peer

    compute = COMPUTE[model.output_weight.dtype]
    if device.type == "cuda" and not peer.get_cuda_device_count():
        return None
    if compute not in peer.get_supported_compute_types(device.type):
        return None
    pieces = names(scale.vocab)
    order = sorted(range(len(sources)), key=lambda row: -len(sources[row][1]))
    with tempfile.TemporaryDirectory() as folder:
        write_folder(model, Path(folder))
        translator = peer.Translator(folder, device=device.type, compute_type=compute)

        def run(batch: int) -> None:
            for start in range(0, len(order), batch):
                rows = order[start : start + batch]
                steps = max(1, round(statistics.mean(lengths[row] for row in rows)))
                translator.translate_batch(
                    [[pieces[id_] for id_ in sources[row][1]] for row in rows],
                    beam_size=1 if sampling else scale.beam,
                    num_hypotheses=nbest,
                    sampling_topk=0 if sampling else 1,
                    min_decoding_length=steps,
                    max_decoding_length=steps,
                )

        def speed(batch: int) -> float:
            run(batch)
            start = time.perf_counter()
            run(batch)
            return len(sources) / (time.perf_counter() - start)

        speeds = {batch: speed(batch) for batch in (batches if device.type == "cuda" else (2,))}
    best = max(speeds, key=lambda batch: speeds[batch])
    return {
        "label": f"CTranslate2 {peer.__version__}, {compute} logits",
        "batch": best,
        "sentences_per_second": speeds[best],
        "tokens_per_second": speeds[best] * sum(length + 1 for length in lengths) / len(lengths),
    }


def names(vocab: int) -> list[str]:
    """A piece for each id."""
    return ["<s>", "<pad>", END, "<unk>", *(f"w{number}" for number in range(4, vocab))]


def write_folder(model: Transformer, out: Path) -> None:
    """Write a model folder of CTranslate2 with the weights of a Transformer with ReLU, in their own precision."""
    from ctranslate2.specs import TransformerSpec

    depths = len(model.encoder), len(model.decoder)
    spec = TransformerSpec.from_config(depths, model.heads, pre_norm=model.norm == "pre")
    for side, layers, table, positions, last in (
        (spec.encoder, model.encoder, model.source_embedding, model.source_positions, model.encoder_norm),
        (spec.decoder, model.decoder, model.target_embedding, model.target_positions, model.decoder_norm),
    ):
        embeddings = side.embeddings
        (embeddings[0] if isinstance(embeddings, list) else embeddings).weight = _array(table)
        side.position_encodings.encodings = _array(positions)
        if isinstance(last, torch.nn.LayerNorm):
            _norm(side.layer_norm, last)
        for into, layer in zip(side.layer, layers, strict=True):
            _fill_layer(into, layer)
    spec.decoder.projection.weight = _array(model.output_weight)
    pieces = names(model.target_vocab)
    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces)
    spec.config.add_source_eos = True
    spec.config.decoder_start_token = END
    spec.validate()
    stored = COMPUTE[model.output_weight.dtype]
    spec.optimize(quantization=None if stored == "float32" else stored)
    spec.save(str(out))


def _fill_layer(into: Any, layer: Any) -> None:
    _attention(into.self_attention, [layer.attention.qkv, layer.attention.out], layer.attention_norm)
    if hasattr(layer, "cross"):
        _attention(into.attention, [layer.cross.query, layer.cross.key_value, layer.cross.out], layer.cross_norm)
    _norm(into.ffn.layer_norm, layer.ffn_norm)
    _linear(into.ffn.linear_0, layer.ffn.inner)
    _linear(into.ffn.linear_1, layer.ffn.out)


def _attention(into: Any, products: list[torch.nn.Linear], norm: torch.nn.LayerNorm) -> None:
    _norm(into.layer_norm, norm)
    for place, product in zip(into.linear, products, strict=True):
        _linear(place, product)


def _linear(into: Any, product: torch.nn.Linear) -> None:
    into.weight, into.bias = _array(product.weight), _array(product.bias)


def _norm(into: Any, norm: torch.nn.LayerNorm) -> None:
    into.gamma, into.beta = _array(norm.weight), _array(norm.bias)


def _array(values: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return values.detach().float().cpu().numpy()
