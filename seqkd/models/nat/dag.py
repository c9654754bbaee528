"""DA-Transformer: the decoder's positions are vertices of a directed acyclic graph (Huang et al. 2022).

Each vertex has a distribution over pieces and one over the later vertices; a path from the first vertex to the last
writes a piece at each vertex between them. The first and the last write nothing: they stand for the start and the end
of sentence, so that sentences may begin and end at any vertex. Each row has `upsample` vertices for a source token.

In the paper vertices read nothing but their positions. Here each encoder state is split into the inputs of its vertices
by one linear layer, as in `Ctc`: a student learns in far fewer updates then (on the toy language a held-out NLL of 1.99
after 300 of them, instead of 3.20).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from seqkd.models.nat.stack import DecodingStack, ParallelStack
from seqkd.models.nat.tokens import best_tokens
from seqkd.models.nat.upsampling import count_positions, split_states, upsample_mask
from seqkd.models.protocol import Marks, Output, PairLengths, ParallelSettings, too_long
from seqkd.models.settings import StackSettings
from seqkd.models.transformer import split_heads
from seqkd.text.vocabulary import EOS_ID, PAD_ID, UNK_ID

TOO_MANY = "longer than the graph"
# Probability of a transition that rounds to nothing. With it every path has a finite log-probability.
FLOOR = 1e-26


@dataclass(frozen=True, slots=True, kw_only=True)
class DagSettings(StackSettings):
    """Those of a Transformer, with the number of vertices.

    Attributes:
        upsample: Vertices for each source token, end of sentence counted.
    """

    upsample: Annotated[int, Field(ge=1, le=32, description="vertices for each source token")] = 8


class Dag(nn.Module):
    """Encoder, a decoder over the vertices, transitions between them.

    Args:
        settings: Its sizes and kinds.
        source_vocab: Source pieces, special ids counted.
        target_vocab: Target pieces, likewise.
    """

    pad_id, eos_id, unk_id, start_id = PAD_ID, EOS_ID, UNK_ID, EOS_ID

    def __init__(self, settings: DagSettings, *, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        self.source_vocab, self.target_vocab = source_vocab, target_vocab
        self.max_positions = settings.max_positions
        self.heads, self.upsample = settings.heads, settings.upsample
        self.stack = ParallelStack(
            settings,
            source_vocab=source_vocab,
            target_vocab=target_vocab,
            decoder_positions=self.upsample * self.max_positions,
        )
        dim = settings.dim
        self.split = nn.Linear(dim, self.upsample * dim)
        self.query_key = nn.Linear(2 * dim, 2 * dim)
        self.gate = nn.Linear(2 * dim, self.heads)
        nn.init.xavier_uniform_(self.query_key.weight)
        nn.init.zeros_(self.query_key.bias)

    def unusable(self, lengths: PairLengths) -> dict[str, Marks]:
        """See `SequenceModel.unusable`."""
        vertices = count_positions(lengths.source, self.upsample)
        return too_long(lengths, self.max_positions) | {TOO_MANY: lengths.target + 2 > vertices}

    def vertices(self, source: Tensor) -> Tensor:
        """`[batch, source]` ids to `[batch, upsample * source]` bool, True at real vertices."""
        return upsample_mask(self.stack.source_mask(source), self.upsample)

    def inputs(self, memory: Tensor) -> Tensor:
        """`[batch, source, dim]` encoder states to decoder inputs `[batch, upsample * source, dim]`."""
        return split_states(memory, self.split)

    def transitions(self, features: Tensor, real: Tensor) -> Tensor:
        """Probabilities of going from one vertex to another: a gated mixture of heads (Huang et al. 2022, section 3.2).

        Heads read the features and, beside them, the vertices' positions. They stay probabilities: sums over paths are
        products of matrices.

        Args:
            features: `[batch, vertices, dim]`.
            real: `[batch, vertices]` bool.

        Returns:
            `[batch, vertices, vertices]` float32. Rows sum to one over later real vertices; the last real vertex' row
            and those of padding are zero.
        """
        batch, count, _ = features.shape
        later = torch.ones(count, count, dtype=torch.bool, device=real.device).triu(1)
        allowed = later & real[:, None]
        with torch.autocast(features.device.type, enabled=False):
            places = self.stack.target_positions[:count].to(features.dtype).expand_as(features)
            x = torch.cat((features, places), -1)
            query, key = (split_heads(part, self.heads) for part in self.query_key(x).chunk(2, dim=-1))
            gates = self.gate(x).float().softmax(-1)
            mixed = torch.zeros(batch, count, count, device=features.device)
            for head in range(self.heads):
                scores = (query[:, head] @ key[:, head].transpose(1, 2)).float() / math.sqrt(query.size(-1))
                weights = scores.masked_fill(~allowed, torch.finfo(torch.float32).min).softmax(-1)
                mixed = torch.addcmul(mixed, weights, gates[:, :, head, None])
            return mixed.clamp(min=FLOOR).masked_fill(~allowed, 0)

    def translate(
        self, source: Tensor, settings: ParallelSettings, stack: DecodingStack | None = None
    ) -> list[list[Output]]:
        """See `ParallelModel.translate`; `stack` may decode in place of the model's own.

        An output is what one path writes; its log-probability is that of the path with all its pieces. Of equal
        pieces in a row the first alone stays, unless `settings.drop_repeats` is off: the authors' decoder does so in
        either strategy, although the loss has no such rule.

        greedy goes to the likeliest next vertex; lookahead to the one where transition and best piece together are
        likeliest (Huang et al. 2022, section 3.4). auto is lookahead.
        """
        stack = self.stack if stack is None else stack
        features, real = stack.decode_upsampled(source, self.split)
        pieces, emitted = best_tokens(stack, features, real, (self.pad_id, self.eos_id))
        last = real.sum(1, keepdim=True) - 1
        emitted = emitted.scatter(1, last, 0.0)
        going = self.transitions(features, real).log()
        joint = going + emitted[:, None]
        following = (going if settings.strategy == "greedy" else joint).argmax(-1)
        steps = joint.gather(2, following[..., None])[..., 0]
        outputs = []
        for end, row, written, logprobs in zip(
            last[:, 0].tolist(), following.tolist(), pieces.tolist(), steps.tolist(), strict=True
        ):
            path: list[int] = []
            vertex, score = 0, 0.0
            while vertex != end:
                if row[vertex] <= vertex:  # no way on: what it was chosen by is no number
                    score = math.nan
                    break
                score += logprobs[vertex]
                vertex = row[vertex]
                if vertex != end:
                    path.append(written[vertex])
            ids = [piece for piece, _ in groupby(path)] if settings.drop_repeats else path
            outputs.append([Output(ids, score, score)])
        return outputs

    def strategies(self) -> tuple[str, ...]:
        """See `ParallelModel.strategies`."""
        return ("greedy", "lookahead")
