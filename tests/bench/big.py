"""A model of a real teacher's size, without a training run: random weights and a biased end of sentence.

With random weights nothing ends a sentence. Here the last layer norm of the decoder gets a small bias, and the
embedding of the end of sentence a part along that bias, which adds a constant to its logit and changes nothing else.
The constant is found by decoding a few sentences until their mean length is the wanted one. Lengths then scatter like
waiting times, which is wider than in translation; what is decoded means nothing, and BLEU has no sense.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch

from seqkd.interop.fairseq_dictionary import word_vocabulary
from seqkd.models.checkpoint import save_model
from seqkd.models.settings import StackSettings
from seqkd.models.transformer import Transformer
from seqkd.search import BeamSearch, BeamSettings
from seqkd.search.plain.transformer import IncrementalTransformer
from tests.bench.work import Sentences

SETTINGS = {
    "dim": 512,
    "heads": 8,
    "ffn_dim": 2048,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "dropout": 0.1,
    "norm": "post",
    "positions": "sinusoidal",
    "activation": "relu",
    "embeddings": "shared",
    "max_positions": 512,
}
VOCABULARY = 32_000
MEAN_LENGTH = 27.0  # subwords of an English sentence of WMT14 newstest, end of sentence counted
BIAS = 0.25


def random_sentences(rows: int, pieces: int, seed: int = 1) -> Sentences:
    """Sources of even random ids, with lengths of a log-normal around `MEAN_LENGTH`."""
    rng = random.Random(seed)
    lengths = [min(90, max(2, round(rng.lognormvariate(3.15, 0.55)))) for _ in range(rows)]
    return Sentences([[rng.randrange(4, pieces) for _ in range(length)] for length in lengths], None)


def write_model(
    out: Path,
    *,
    settings: dict[str, object] = SETTINGS,
    pieces: int = VOCABULARY,
    max_length: int,
    mean_length: float = MEAN_LENGTH,
) -> str:
    """Make the model folder `out`; answers with a line that says what it is."""
    torch.manual_seed(1)
    model = Transformer(StackSettings(**settings), source_vocab=pieces, target_vocab=pieces).eval()  # type: ignore[arg-type]
    direction = torch.full((model.dim,), BIAS)
    direction[::2] *= -1
    last = model.decoder[-1].ffn_norm
    assert isinstance(last, torch.nn.LayerNorm)
    low, high, mean = 0.0, 40.0, 0.0
    with torch.no_grad():
        last.bias.copy_(direction)
        embedding = model.target_embedding[model.eos_id].clone()
        # The bias adds the same to all rows' logits on average only; take that part out of the others' way.
        model.target_embedding.sub_(
            torch.outer(model.target_embedding @ direction, direction) / direction.dot(direction)
        )
        for _ in range(9):
            shift = (low + high) / 2
            model.target_embedding[model.eos_id] = embedding + shift * direction / direction.dot(direction)
            mean = _mean_length(model, max_length)
            low, high = (shift, high) if mean > mean_length else (low, shift)
            if abs(mean - mean_length) < 2:
                break
    out.mkdir(parents=True)
    words = out.parent / "words.model"
    words.write_bytes(word_vocabulary([f"w{number}" for number in range(pieces - 4)]).model)
    save_model(out, model, arch="transformer", settings=settings, vocab=words)
    return f"random weights, end of sentence biased to a mean length of {mean:.0f} tokens; BLEU has no meaning here"


def _mean_length(model: Transformer, max_length: int) -> float:
    sentences = random_sentences(12, model.target_vocab, seed=2)
    settings = BeamSettings(beam=5, nbest=1, max_length_ratio=0.0, max_length_extra=max_length)
    search = BeamSearch([IncrementalTransformer(model)], settings)
    lengths = [len(found[0].ids) + 1 for _, found in search.decode(enumerate(sentences.ids), batch_tokens=2000)]
    return sum(lengths) / len(lengths)
