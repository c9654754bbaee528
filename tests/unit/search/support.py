"""Small models and a search by exhaustion to hold the real one against."""

from __future__ import annotations

import itertools
import random

import torch

from seqkd.models.incremental import IncrementalTransformer
from seqkd.models.transformer import Transformer
from seqkd.search import BeamSettings, PairScore, score_pairs

BOS, PAD, EOS, UNK = 0, 1, 2, 3


def tiny_model(*, vocab: int = 40, seed: int = 0, end_bias: float = 0.0, norm: str = "pre") -> Transformer:
    """A random Transformer; `end_bias` makes the end of sentence likelier, so that lengths are realistic."""
    torch.manual_seed(seed)
    model = Transformer(
        source_vocab=vocab,
        target_vocab=vocab,
        dim=16,
        heads=2,
        ffn_dim=32,
        encoder_layers=1,
        decoder_layers=2,
        dropout=0.0,
        norm="pre" if norm == "pre" else "post",
        embeddings="separate",
        max_positions=64,
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


def engine(model: Transformer) -> IncrementalTransformer:
    return IncrementalTransformer(model)


def sentences(count: int, *, vocab: int = 40, longest: int = 9, seed: int = 0) -> list[tuple[int, list[int]]]:
    draw = random.Random(seed)
    return [(7 * row, [draw.randrange(4, vocab) for _ in range(draw.randint(1, longest))]) for row in range(count)]


def exhaustive(
    model: Transformer, source: list[int], settings: BeamSettings
) -> list[tuple[float, float, tuple[int, ...]]]:
    """Every translation up to the limit, with its score and log-probability, best first."""
    limit = settings.max_length(len(source), model.max_positions)
    pieces = [piece for piece in range(model.target_vocab) if piece not in (PAD, EOS)]
    targets = [
        list(target)
        for length in range(settings.min_length, limit + 1)
        for target in itertools.product(pieces, repeat=length)
    ]
    scored: list[PairScore] = score_pairs([model], [(source, target) for target in targets], batch_tokens=50_000)
    found = []
    for target, pair in zip(targets, scored, strict=True):
        length = float(pair.tokens)
        if settings.normalization == "gnmt":
            length = (length + 5) / 6
        found.append((pair.logprob / length**settings.length_penalty, pair.logprob, tuple(target)))
    return sorted(found, reverse=True)
