"""Decoding with fairseq's own generators.

They are driven as `fairseq-generate` drives them, but for four things. All candidates of a length beam come back, not
the best alone. Outputs end at the model's longest target: fairseq's refinement has no limit of its own, and runs out of
learned positions. An output of padding alone has a score, the lowest. And a Levenshtein Transformer is handed attention
weights of the right shape from the start: without any, fairseq fails as soon as one sentence of a batch is edited and
another is not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seqkd.interop.fairseq_library import IterativeRefinementGenerator, SequenceGenerator
from seqkd.models.protocol import Output

LONGEST = 200  # tokens that the left-to-right generator writes at most: the default of fairseq-generate
_NOTHING = -1e9  # score of an output that holds no token at all, of which fairseq takes the mean


def generate(net: Any, dictionary: Any, inputs: dict[str, Tensor], *, beam: int) -> list[list[Output]]:
    """Left to right, by fairseq's SequenceGenerator: greedy with a beam of 1.

    Args:
        net: fairseq's model.
        dictionary: Of the target.
        inputs: `src_tokens` `[batch, source]` and `src_lengths` `[batch]`, longest first.
        beam: Hypotheses of a sentence.

    Returns:
        For each sentence its hypotheses, best first, scored by log-probability / length.
    """
    # A limit that grew with the source would be that of the longest source in the batch.
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
    """All positions at once, by fairseq's IterativeRefinementGenerator.

    Args:
        net: fairseq's model.
        dictionary: Of the target.
        inputs: `src_tokens` `[batch, source]` and `src_lengths` `[batch]`.
        passes: Of the decoder, at most.
        stop_early: Whether a sentence that a pass leaves as it was is done.
        candidates: Lengths that are tried, around the likeliest one; 1 where the model predicts none.
        longest: Tokens of an output, beginning and end counted, at most.

    Returns:
        For each sentence its candidates, best first, scored by the mean of their tokens' scores.
    """
    generator = IterativeRefinementGenerator(dictionary, max_iter=passes - 1, adaptive=stop_early)
    copies = {name: tensor.repeat_interleave(candidates, 0) for name, tensor in inputs.items()}
    model = _Candidates(net, dictionary, candidates, longest)
    refined = generator.generate([model], {"net_input": copies})
    # Where the ends belong a model may have written words.
    found = [_output(hypotheses[0], dictionary, longest - 2) for hypotheses in refined]
    groups = [found[start : start + candidates] for start in range(0, len(found), candidates)]
    return [sorted(group, key=lambda output: -output.score) for group in groups]


class _Candidates:
    """A model as the generator sees it: every candidate is a sentence of its own.

    Args:
        net: fairseq's model.
        dictionary: Of the target.
        candidates: Of each sentence; they stand side by side in the batch.
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
