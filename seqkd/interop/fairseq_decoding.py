"""Decoding with fairseq's own generators.

The generators are called as in `fairseq-generate`, with four differences. All candidates of a length beam are returned,
not only the best. Outputs end at the model's longest target, because fairseq's refinement has no limit of its own and
would exceed the learned positions. An output that consists of padding gets the lowest score. A Levenshtein Transformer
starts with attention weights of the right shape, because fairseq otherwise fails if it edits one sentence of a batch
but not another.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkd.interop.fairseq_library import IterativeRefinementGenerator, SequenceGenerator
from seqkd.models.protocol import Output

LONGEST = 200  # longest output of the left-to-right generator in tokens, the default of fairseq-generate
_NOTHING = -1e9  # score of an output without tokens, for which fairseq's mean is undefined


def generate(net: Any, dictionary: Any, inputs: dict[str, Tensor], *, beam: int) -> list[list[Output]]:
    """Decode left to right with fairseq's SequenceGenerator. The search is greedy if the beam is 1.

    Args:
        net: fairseq's model.
        dictionary: The target dictionary.
        inputs: `src_tokens` `[batch, source]` and `src_lengths` `[batch]`, longest first.
        beam: Hypotheses for each sentence.

    Returns:
        The hypotheses of each sentence, best first, scored by log-probability / length.
    """
    # The limit does not depend on the source, because fairseq would use the longest source of the batch.
    generator = SequenceGenerator([net], dictionary, beam_size=beam, max_len_a=0, max_len_b=LONGEST)
    found = generator.generate([net], {"net_input": inputs})
    return [[_output(hypothesis, dictionary, LONGEST) for hypothesis in hypotheses] for hypotheses in found]


def refine(
    net: Any,
    dictionary: Any,
    inputs: dict[str, Tensor],
    *,
    passes: int,
    stop_early: bool,
    candidates: int,
    longest: int,
) -> list[list[Output]]:
    """Decode all positions at once with fairseq's IterativeRefinementGenerator.

    Args:
        net: fairseq's model.
        dictionary: The target dictionary.
        inputs: `src_tokens` `[batch, source]` and `src_lengths` `[batch]`.
        passes: Maximum number of passes of the decoder.
        stop_early: Whether a sentence is finished if a pass does not change it.
        candidates: Number of lengths to try around the likeliest one; 1 if the model predicts no length.
        longest: Maximum number of tokens of an output, including beginning and end of sentence.

    Returns:
        The candidates of each sentence, best first, scored by the mean of the scores of their tokens.
    """
    generator = IterativeRefinementGenerator(dictionary, max_iter=passes - 1, adaptive=stop_early)
    copies = {name: tensor.repeat_interleave(candidates, 0) for name, tensor in inputs.items()}
    model = _Candidates(net, dictionary, candidates, longest)
    refined = generator.generate([model], {"net_input": copies})
    # The limit excludes beginning and end of sentence, because a model may have written words in their places.
    found = [_output(hypotheses[0], dictionary, longest - 2) for hypotheses in refined]
    groups = [found[start : start + candidates] for start in range(0, len(found), candidates)]
    return [sorted(group, key=lambda output: -output.score) for group in groups]


class _Candidates:
    """A wrapper of a model for the generator, to which every candidate is a separate sentence.

    Args:
        net: fairseq's model.
        dictionary: The target dictionary.
        candidates: Number of candidates of each sentence. They are neighbours in the batch.
        longest: See `refine`.
    """

    def __init__(self, net: Any, dictionary: Any, candidates: int, longest: int) -> None:
        self.net, self.encoder = net, net.encoder
        self.pad, self.eos = dictionary.pad(), dictionary.eos()
        self.candidates, self.longest = candidates, longest

    def eval(self) -> None:
        self.net.eval()

    def forward_encoder(self, inputs: list[Tensor]) -> Any:
        tokens, lengths = inputs
        encoded = self.net.forward_encoder([tokens[:: self.candidates], lengths[:: self.candidates]])
        if self.candidates == 1:
            return encoded
        each = torch.arange(len(tokens), device=tokens.device) // self.candidates
        return self.encoder.reorder_encoder_out(encoded, each)

    def initialize_output_tokens(self, encoded: Any, source: Tensor) -> Any:
        state = self.net.initialize_output_tokens(encoded, source)
        if self.candidates > 1:
            once = state._replace(
                output_tokens=state.output_tokens[:: self.candidates],
                output_scores=state.output_scores[:: self.candidates],
            )
            state = self.net.regenerate_length_beam(once, self.candidates)
        return self._cut(state)

    def forward_decoder(self, state: Any, encoded: Any, **options: Any) -> Any:
        shape = (*state.output_tokens.shape, encoded["encoder_out"][0].size(0))
        state = state._replace(attn=state.output_scores.new_zeros(shape))
        return self._cut(self.net.forward_decoder(state, encoded, **options))._replace(attn=None)

    def _cut(self, state: Any) -> Any:
        """End every row at `longest` tokens."""
        if state.output_tokens.size(1) <= self.longest:
            return state
        tokens = state.output_tokens[:, : self.longest].clone()
        tokens[:, -1] = torch.where(tokens[:, -1].eq(self.pad), self.pad, self.eos)
        return state._replace(output_tokens=tokens, output_scores=state.output_scores[:, : self.longest].clone())


def _output(hypothesis: Any, dictionary: Any, longest: int) -> Output:
    special = (dictionary.bos(), dictionary.pad(), dictionary.eos())
    tokens = hypothesis["tokens"].tolist()
    ids = [index for index in tokens if index not in special][:longest]
    score = float(hypothesis["score"]) if tokens else _NOTHING
    return Output(ids, score, float(hypothesis["positional_scores"].sum()))
