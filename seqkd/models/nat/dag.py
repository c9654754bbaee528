"""DA-Transformer: the decoder's positions are vertices of a directed acyclic graph (Huang et al. 2022).

Each vertex has a distribution over pieces and one over the later vertices. A path from the first vertex to the last
writes a piece at each vertex between them. The first and the last vertex write nothing: they are the start and the end
of sentence, so that sentences may begin and end at any vertex. Each row has `upsample` vertices for a source token.

In the paper the inputs of the vertices are only their positions. Here one linear layer splits each encoder state into
the inputs of its vertices, as in `Ctc`, because a student then learns in far fewer updates (on the toy language, a
held-out NLL of 1.99 after 300 updates instead of 3.20).
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
# The smallest probability of a transition. It keeps the log-probability of every path finite.
FLOOR = 1e-26


@dataclass(frozen=True, slots=True, kw_only=True)
class DagSettings(StackSettings):
    """The settings of a Transformer and the number of vertices.

    Attributes:
        upsample: Vertices for each source token, including end of sentence.
    """

    upsample: Annotated[int, Field(ge=1, le=32, description="vertices for each source token")] = 8


class Dag(nn.Module):
    """An encoder, a decoder over the vertices, and the transitions between vertices.

    Args:
        settings: The settings of the model.
        source_vocab: Number of source pieces, including special ids.
        target_vocab: Number of target pieces, including special ids.
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
        """Map `[batch, source]` ids to `[batch, upsample * source]` bool, True at real vertices."""
        return upsample_mask(self.stack.source_mask(source), self.upsample)

    def inputs(self, memory: Tensor) -> Tensor:
        """Map encoder states `[batch, source, dim]` to decoder inputs `[batch, upsample * source, dim]`."""
        return split_states(memory, self.split)

    def transitions(self, features: Tensor, real: Tensor) -> Tensor:
        """Compute transition probabilities as a gated mixture of heads (Huang et al. 2022, section 3.2).

        The heads read the features and the positions of the vertices. The result is not in the log domain, because
        sums over paths are then products of matrices.

        Args:
            features: `[batch, vertices, dim]`.
            real: `[batch, vertices]` bool.

        Returns:
            `[batch, vertices, vertices]` float32. A row sums to one over the later real vertices. The rows of the last
            real vertex and of padding are zero.
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
        """See `ParallelModel.translate`. `stack` replaces the model's own stack if it is given.

        An output consists of the pieces of one path. Its log-probability is that of the path and all its pieces. Unless
        `settings.drop_repeats` is off, only the first of several equal pieces in a row is kept, as in the authors'
        decoder for both strategies. The loss has no such rule.

        The strategy greedy goes to the likeliest next vertex. The strategy lookahead goes to the vertex with the
        largest product of the transition's and the best piece's probabilities (Huang et al. 2022, section 3.4). auto is
        lookahead.
        """
        stack = self.stack if stack is None else stack
        # The device is asked before it has work, for which the host would otherwise wait.
        count = self.upsample * int(self.stack.source_mask(source).sum())
        features, real = stack.decode_upsampled(source, self.split)
        pieces, emitted = best_tokens(stack, features, real, count, (self.pad_id, self.eos_id))
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
                if row[vertex] <= vertex:  # the scores are NaN, so there is no next vertex
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
