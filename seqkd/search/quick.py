"""Fast decoding with a model in training, for its validation."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from torch import nn

from seqkd.models.checkpoint import LoadedModel
from seqkd.models.protocol import ParallelSettings
from seqkd.search.beam import BeamSearch
from seqkd.search.loading import DTYPES, Precision, build_engine, build_parallel_model, record_of, resolve_precision
from seqkd.search.parallel import Decoder, ParallelSearch
from seqkd.search.settings import BeamSettings


def quick_decoder(loaded: LoadedModel) -> Decoder:
    """Build a fast decoder for a model in training, on its device: greedy, or the cheapest method of the model."""
    device = next(loaded.model.parameters()).device
    precision = resolve_precision("auto" if device.type == "cpu" else "float32", device)
    return _quick_decoder(loaded, precision, None if precision == "float32" else loaded)


class KeptDecoder:
    """A fast decoder for a model in training, on a CUDA device: greedy, or the cheapest method of the model.

    It decodes with a copy of the weights, whose buffers and CUDA graphs are kept from one validation to the next.
    Sentences with NaN or infinite logits are decoded again with the model itself.

    Args:
        loaded: The model, whose weights are float32.
        precision: Precision of the copy.
    """

    def __init__(self, loaded: LoadedModel, precision: Precision = "bf16") -> None:
        self._copy = replace(loaded, model=deepcopy(loaded.model).to(DTYPES[precision]).eval())
        self._decoder = _quick_decoder(self._copy, precision, loaded)

    @torch.no_grad()
    def with_weights_of(self, model: nn.Module) -> Decoder:
        """Return the decoder, with a copy of the present weights of the model."""
        for own, new in zip(self._copy.model.state_dict().values(), model.state_dict().values(), strict=True):
            own.copy_(new)
        return self._decoder


def _quick_decoder(loaded: LoadedModel, precision: Precision, in_float32: LoadedModel | None) -> Decoder:
    """Build the decoder of `quick_decoder`, which decodes failures again with `in_float32` if it is given."""
    if not record_of(loaded).left_to_right:
        settings = ParallelSettings()
        return ParallelSearch(
            build_parallel_model(loaded, precision),
            settings,
            fallback=None
            if in_float32 is None
            else lambda: ParallelSearch(build_parallel_model(in_float32, "float32"), settings),
        )
    return BeamSearch(
        [build_engine(loaded, precision)],
        BeamSettings(beam=1),
        prefix=loaded.vocabularies.target.prefix,
        fallback=None if in_float32 is None else lambda: [build_engine(in_float32, "float32")],
    )
