"""What Marian computes with a model file, in NumPy: log-probabilities of given targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = Any


class MarianModel:
    """A Transformer encoder with a decoder of self-attention or SSRU, from an .npz file."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.arrays: dict[str, Array] = {name: file[name] for name in file.files}
        text = self.arrays.pop("special:model.yml").tobytes()
        assert text.endswith(b"\n\0")
        lines = text[:-1].decode().splitlines()
        self.config = dict(line.split(": ", 1) for line in lines)
        self.heads = int(self.config["transformer-heads"])
        self.pre = self.config["transformer-preprocess"] == "n"
        assert self.config["transformer-postprocess"] == ("da" if self.pre else "dan")
        self.unread = set(self.arrays)

    def score(self, source: Sequence[int], target: Sequence[int]) -> float:
        """The log-probability of a target. Both have an end of sentence, which is 0."""
        tied = self.config["tied-embeddings-all"] == "true"
        table = self._get("Wemb" if tied else "encoder_Wemb")
        memory = self._embed(table[list(source)])
        for layer in range(1, int(self.config["enc-depth"]) + 1):
            name = f"encoder_l{layer}"
            memory = self._block(memory, f"{name}_self_Wo", lambda x, n=name: self._attend(f"{n}_self", x, x))
            memory = self._block(memory, f"{name}_ffn_ffn", lambda x, n=name: self._feed_forward(f"{n}_ffn", x))
        memory = self._norm(memory, "encoder_top_ln", "") if self.pre else memory
        output = table = self._get("Wemb" if tied else "decoder_Wemb")
        if not tied and self.config["tied-embeddings"] == "false":
            output = self._get("decoder_ff_logit_out_Wt")
        read = table[list(target)[:-1]]
        x = self._embed(np.concatenate((np.zeros_like(table[:1]), read)))
        recurrent = self.config["transformer-decoder-autoreg"] == "rnn"
        for layer in range(1, int(self.config["dec-depth"]) + 1):
            name = f"decoder_l{layer}"
            if recurrent:
                norm = f"{name}_rnn" if self.pre else f"{name}_rnn_ffn"
                x = self._block(x, norm, lambda x, n=name: self._ssru(f"{n}_rnn", x))
            else:
                x = self._block(x, f"{name}_self_Wo", lambda x, n=name: self._attend(f"{n}_self", x, x, causal=True))
            x = self._block(x, f"{name}_context_Wo", lambda x, n=name: self._attend(f"{n}_context", x, memory))
            x = self._block(x, f"{name}_ffn_ffn", lambda x, n=name: self._feed_forward(f"{n}_ffn", x))
        x = self._norm(x, "decoder_top_ln", "") if self.pre else x
        logits = x @ output.T + self._get("decoder_ff_logit_out_b")
        top = logits.max(-1, keepdims=True)
        logprobs = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
        return float(logprobs[np.arange(len(target)), list(target)].sum())

    def _get(self, name: str) -> Array:
        self.unread.discard(name)
        return self.arrays[name].astype(np.float64)

    def _embed(self, x: Array) -> Array:
        length, dim = x.shape
        rates = 10000.0 ** (-np.arange(dim // 2) / (dim / 2 - 1))
        angles = np.arange(length)[:, None] * rates
        return x * math.sqrt(dim) + np.concatenate((np.sin(angles), np.cos(angles)), 1)

    def _norm(self, x: Array, name: str, end: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * self._get(f"{name}_scale{end}") + self._get(f"{name}_bias{end}")

    def _block(self, x: Array, norm: str, function: Any) -> Array:
        if self.pre:
            return x + function(self._norm(x, f"{norm}_ln", "_pre"))
        return self._norm(x + function(x), f"{norm}_ln", "")

    def _linear(self, name: str, part: str, x: Array) -> Array:
        return x @ self._get(f"{name}_W{part}") + self._get(f"{name}_b{part}")

    def _attend(self, name: str, x: Array, memory: Array, *, causal: bool = False) -> Array:
        query, key, value = (
            self._linear(name, part, read).reshape(len(read), self.heads, -1).swapaxes(0, 1)
            for part, read in (("q", x), ("k", memory), ("v", memory))
        )
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
        if causal:
            scores = scores - 1e8 * np.triu(np.ones(scores.shape[1:]), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ value
        return self._linear(name, "o", mixed.swapaxes(0, 1).reshape(len(x), -1))

    def _feed_forward(self, name: str, x: Array) -> Array:
        hidden = self._linear(name, "1", x)
        kind = self.config["transformer-ffn-activation"]
        if kind == "relu":
            hidden = np.maximum(hidden, 0)
        elif kind == "swish":
            hidden = hidden / (1 + np.exp(-hidden))
        else:
            hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
        return self._linear(name, "2", hidden)

    def _ssru(self, name: str, x: Array) -> Array:
        gates, values = 1 / (1 + np.exp(-self._linear(name, "f", x))), x @ self._get(f"{name}_W")
        cell, outputs = np.zeros(x.shape[-1]), []
        for gate, value in zip(gates, values, strict=True):
            cell = gate * cell + (1 - gate) * value
            outputs.append(np.maximum(cell, 0))
        return np.stack(outputs)
