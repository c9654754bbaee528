"""Small models and a search by exhaustion to hold the real one against."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seqkd.models.lstm import Lstm, LstmSettings
from seqkd.models.settings import Activation, Norm, StackSettings, TransformerSettings
from seqkd.models.sru import Cell, Sru, SruSettings
from seqkd.models.transformer import Transformer
from seqkd.search import BeamSearch, BeamSettings, Hypothesis, PairScore, SearchModel, score_pairs
from seqkd.search.pace import Pace
from seqkd.search.plain.transformer import IncrementalTransformer

BOS, PAD, EOS, UNK = 0, 1, 2, 3

# The options of a Transformer of Marian and of BART.
MARIAN: dict[str, Any] = {
    "norm": "post",
    "activation": "swish",
    "start": "zero",
    "output_bias": True,
    "position_offset": 0,
    "norm_epsilon": 1e-3,
}
BART: dict[str, Any] = {
    "norm": "pre",
    "activation": "gelu",
    "start": 7,
    "output_bias": True,
    "embedding_norm": True,
    "scale_embeddings": False,
    "positions": "learned",
}

# How torch, Triton and CUDA's libraries say that memory does not suffice.
MEMORY_ERRORS: list[Exception] = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]


def tiny_model(
    *, vocab: int = 40, seed: int = 0, end_bias: float = 0.0, norm: str = "pre", heads: int = 2
) -> Transformer:
    """A random Transformer; `end_bias` makes the end of sentence likelier, so that lengths are realistic."""
    torch.manual_seed(seed)
    model = Transformer(
        StackSettings(
            dim=16,
            heads=heads,
            ffn_dim=32,
            encoder_layers=1,
            decoder_layers=2,
            dropout=0.0,
            norm="pre" if norm == "pre" else "post",
            embeddings="separate",
            max_positions=64,
        ),
        source_vocab=vocab,
        target_vocab=vocab,
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)  # peaked distributions, as a trained model has them
        if end_bias:
            # the output layer has no bias: a direction that all features share stands in for one
            model.decoder_norm = torch.nn.LayerNorm(16)
            model.decoder_norm.bias.fill_(0.5)
            model.output_weight[EOS] += end_bias
    return model.eval()


def tiny_lstm(*, vocab: int = 40, seed: int = 0, end_bias: float = 0.0) -> Lstm:
    """As `tiny_model`."""
    torch.manual_seed(seed)
    model = Lstm(
        LstmSettings(
            dim=16,
            encoder_layers=1,
            decoder_layers=2,
            dropout=0.0,
            embeddings="separate",
            max_positions=64,
        ),
        source_vocab=vocab,
        target_vocab=vocab,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
        model.decoder.value.bias.fill_(0.5)
        model.output_weight[EOS] += end_bias
    return model.eval()


def tiny_sru(*, vocab: int = 40, seed: int = 0, end_bias: float = 0.0, cell: Cell = "ssru") -> Sru:
    """As `tiny_model`."""
    torch.manual_seed(seed)
    model = Sru(
        SruSettings(
            dim=16,
            heads=2,
            ffn_dim=32,
            encoder_layers=1,
            decoder_layers=2,
            dropout=0.0,
            embeddings="separate",
            max_positions=64,
            cell=cell,
        ),
        source_vocab=vocab,
        target_vocab=vocab,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
        for name, parameter in model.named_parameters():
            if "peepholes" in name:
                parameter.normal_()
        model.decoder_norm.bias.fill_(0.5)  # type: ignore[operator]
        model.output_weight[EOS] += end_bias
    return model.eval()


def engine(model: Transformer) -> IncrementalTransformer:
    return IncrementalTransformer(model)


def sentences(count: int, *, vocab: int = 40, longest: int = 9, seed: int = 0) -> list[tuple[int, list[int]]]:
    draw = random.Random(seed)
    return [(7 * row, [draw.randrange(4, vocab) for _ in range(draw.randint(1, longest))]) for row in range(count)]


def exhaustive(
    model: Transformer | Lstm | Sru, source: list[int], settings: BeamSettings
) -> list[tuple[float, float, tuple[int, ...]]]:
    """Every translation up to the limit, with its score and log-probability, best first."""
    limit = settings.max_length(len(source), model.max_positions)
    shortest = settings.shortest(len(source))
    pieces = [piece for piece in range(model.target_vocab) if piece not in (PAD, EOS)]
    targets = [
        list(target)
        for length in range(min(shortest, limit), limit + 1)
        for target in itertools.product(pieces, repeat=length)
    ]
    scored: list[PairScore] = score_pairs([model], [(source, target) for target in targets], batch_tokens=50_000)
    found = []
    for target, pair in zip(targets, scored, strict=True):
        length = float(pair.tokens)
        if settings.normalization == "gnmt":
            length = (length + 5) / 6
        logprob = pair.logprob - settings.unk_penalty * target.count(UNK)
        found.append((logprob / length**settings.length_penalty, logprob, tuple(target)))
    return sorted(found, reverse=True)


def decode(
    model: SearchModel,
    chosen: BeamSettings,
    rows: list[tuple[int, list[int]]],
    budget: int = 60,
    prefix: Sequence[int] | Mapping[int, Sequence[int]] = (),
    pace: Pace | None = None,
) -> dict[int, list[Hypothesis]]:
    results = list(BeamSearch([model], chosen, pace=pace).decode(rows, batch_tokens=budget, prefix=prefix))
    assert len(results) == len({row for row, _ in results})
    return dict(results)


def lists(results: dict[int, list[Hypothesis]]) -> dict[int, list[list[int]]]:
    return {row: [h.ids for h in hypotheses] for row, hypotheses in results.items()}


class Broken:
    """An engine whose logits turn bad for sources that hold piece 39, at the second step."""

    def __init__(self, value: float) -> None:
        self.inner = engine(tiny_model(end_bias=0.1))
        self.value = value
        self.target_vocab, self.max_positions = self.inner.target_vocab, self.inner.max_positions
        self.pad_id, self.eos_id, self.unk_id = self.inner.pad_id, self.inner.eos_id, self.inner.unk_id
        self.start_id, self.device = self.inner.start_id, self.inner.device

    def new_state(self, slots: int, beam: int, max_source: int, max_target: int) -> dict[str, Any]:
        state = self.inner.new_state(slots, beam, max_source, max_target)
        return {"inner": state, "sick": torch.zeros(slots, dtype=torch.bool), "age": torch.zeros(slots)}

    def admit(self, state: dict[str, Any], slots: Tensor, source: Tensor) -> None:
        self.inner.admit(state["inner"], slots, source)
        state["sick"][slots] = source.eq(39).any(dim=1)
        state["age"][slots] = 0

    def step(self, state: dict[str, Any], tokens: Tensor) -> Tensor:
        logits = self.inner.step(state["inner"], tokens).clone()
        state["age"] += 1
        logits[state["sick"] & state["age"].eq(2), 0, 7] = self.value
        return logits

    def reorder(self, state: dict[str, Any], parents: Tensor) -> None:
        self.inner.reorder(state["inner"], parents)

    def release(self, state: dict[str, Any], slots: Tensor) -> None:
        self.inner.release(state["inner"], slots)

    def shrink(self, state: dict[str, Any], slots: Tensor) -> None:
        self.inner.shrink(state["inner"], slots)
        state["sick"], state["age"] = state["sick"][slots], state["age"][slots]


class Small:
    """An engine that runs out of memory with more than `capacity` slots, after a few steps or at the start."""

    def __init__(self, capacity: int, *, late: bool) -> None:
        self.inner = engine(tiny_model(end_bias=0.1))
        self.capacity, self.late, self.refused = capacity, late, 0
        self.target_vocab, self.max_positions = self.inner.target_vocab, self.inner.max_positions
        self.pad_id, self.eos_id, self.unk_id = self.inner.pad_id, self.inner.eos_id, self.inner.unk_id
        self.start_id, self.device = self.inner.start_id, self.inner.device
        self.new = self.inner.new_state
        self.admit, self.reorder = self.inner.admit, self.inner.reorder
        self.release, self.shrink = self.inner.release, self.inner.shrink
        self.steps = 0

    def _check(self, slots: int) -> None:
        if slots > self.capacity:
            self.refused += 1
            raise torch.OutOfMemoryError("CUDA out of memory")

    def new_state(self, slots: int, beam: int, max_source: int, max_target: int) -> Any:
        if not self.late:
            self._check(slots)
        return self.new(slots, beam, max_source, max_target)

    def step(self, state: Any, tokens: Tensor) -> Tensor:
        self.steps += 1
        if self.late and self.steps > 3:
            self._check(len(tokens))
        return self.inner.step(state, tokens)


def engine_model(
    *,
    dim: int,
    ffn_dim: int,
    encoder_layers: int,
    norm: Norm = "pre",
    activation: Activation = "relu",
    vocab: int = 77,
    **more: Any,
) -> Transformer:
    """A random Transformer with biases and norms that are not trivial, to hold engines against."""
    torch.manual_seed(5)
    built = Transformer(
        TransformerSettings(
            dim=dim,
            heads=2,
            ffn_dim=ffn_dim,
            encoder_layers=encoder_layers,
            decoder_layers=2,
            dropout=0.0,
            norm=norm,
            activation=activation,
            max_positions=64,
            **more,
        ),
        source_vocab=vocab,
        target_vocab=vocab,
    )
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        built.output_weight[EOS] *= 1.5
    return built.eval()


def padded(lengths: list[int], seed: int, *, vocab: int = 77) -> Tensor:
    """Random sources with end of sentence, padded on the right."""
    draw = torch.Generator().manual_seed(seed)
    out = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in enumerate(lengths):
        out[row, : length - 1] = torch.randint(4, vocab, (length - 1,), generator=draw)
        out[row, length - 1] = EOS
    return out
