"""Fertilities: the number of target tokens for each source token (Gu et al. 2018, section 3.3).

Gu et al. take the fertilities for training from an external aligner. Here a lexical model aligns each batch and is
trained together with the other parts. It is IBM model 1 (Brown et al. 1993), whose table is a product of the model's
own embeddings, with fast_align's prior on the diagonal (Dyer et al. 2013, equation 2). An untrained lexical model
follows the prior, which spreads the target's length evenly over the source.

End of sentence is a token on both sides. The target's end of sentence is always aligned to the source's. Other target
tokens may be aligned to it, too; it plays the part of the NULL word.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 50  # fertilities are 0..49, as in Gu et al. (section 5.1)
DIAGONAL = 4.0  # strength with which the prior favours the diagonal


class Alignment(NamedTuple):
    """Fertilities from an alignment of known targets.

    Attributes:
        fertilities: `[batch, source]` int64. The sum of a row is its target length, including end of sentence.
        loss: Scalar: negative log-likelihood of the targets under the lexical model, mean over their tokens.
    """

    fertilities: Tensor
    loss: Tensor


class FertilityCandidates(NamedTuple):
    """The most probable fertilities of sentences.

    Attributes:
        fertilities: `[batch, candidates, source]` int64, most probable first, all different.
        logprobs: `[batch, candidates]` float32; -inf for a missing candidate, whose `fertilities` are meaningless.
    """

    fertilities: Tensor
    logprobs: Tensor


class FertilityPredictor(nn.Module):
    """Classifies the fertility of each source token from its encoder state.

    Args:
        dim: Width of encoder states and embeddings.
        classes: Number of fertilities, which are 0 to `classes - 1`.
    """

    def __init__(self, dim: int, classes: int = CLASSES) -> None:
        super().__init__()
        self.classes = nn.Linear(dim, classes)
        self.lexicon = nn.Linear(dim, dim)
        for layer in (self.classes, self.lexicon):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def align(self, source: Tensor, real: Tensor, target: Tensor, target_real: Tensor, weight: Tensor) -> Alignment:
        """Align known targets.

        Args:
            source: `[batch, source, dim]` source embeddings.
            real: `[batch, source]`, True at tokens. Each row has at least one; its last one is end of sentence.
            target: `[batch, target]` ids, end of sentence last.
            target_real: `[batch, target]`, True at tokens.
            weight: `[target_vocab, dim]`, the output layer.
        """
        lexical = functional.linear(self.lexicon(source), weight).float().log_softmax(-1)
        scores = lexical.gather(2, target[:, None, :].expand(-1, source.size(1), -1))  # [batch, source, target]
        scores = scores + _prior(real, target_real)
        likelihood = torch.where(target_real, scores.logsumexp(1), 0.0)
        chosen = scores.detach().argmax(1)
        ends = target_real.sum(1) - 1
        last = torch.arange(target.size(1), device=target.device) == ends[:, None]
        chosen = torch.where(last, (real.sum(1) - 1)[:, None], chosen)
        fertilities = torch.zeros(real.shape, dtype=torch.int64, device=real.device)
        fertilities = fertilities.scatter_add_(1, chosen, target_real.long())
        return Alignment(fertilities, -likelihood.sum() / target_real.sum().clamp(min=1))

    def loss(self, memory: Tensor, real: Tensor, fertilities: Tensor) -> Tensor:
        """Compute the cross-entropy of the fertilities, mean over source tokens, a scalar.

        Args:
            memory: `[batch, source, dim]` encoder states.
            real: `[batch, source]`, True at tokens.
            fertilities: `[batch, source]` int64. Values beyond the last class count as the last class.
        """
        wanted = fertilities.clamp(max=self.classes.out_features - 1).masked_fill(~real, -100)
        logits = self.classes(memory).float()
        return functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)

    def candidates(self, memory: Tensor, real: Tensor, count: int) -> FertilityCandidates:
        """Find the most probable fertilities of each whole sentence, with at least one token before end of sentence.

        The fertilities of a sentence are independent, so the best candidates of a prefix extend the best candidates of
        the prefix that is one token shorter, and the result is exact. (Gu et al. draw samples instead.)

        Args:
            memory: `[batch, source, dim]` encoder states.
            real: `[batch, source]`, True at tokens.
            count: Number of candidates.
        """
        batch, width, _ = memory.shape
        wanted = count + 1  # one of them may have no token except end of sentence
        logprobs = self.classes(memory).float().log_softmax(-1)
        places = torch.arange(width, device=real.device)
        ends = places == real.sum(1, keepdim=True) - 1
        logprobs[..., 0] = logprobs[..., 0].masked_fill(ends, float("-inf"))
        # The fertility of padding is 0 with probability 1.
        silent = torch.full((self.classes.out_features,), float("-inf"), device=real.device)
        silent[:1] = 0.0
        logprobs = torch.where(real[..., None], logprobs, silent)
        best, classes = logprobs.sort(dim=-1, descending=True, stable=True)
        best, classes = best[..., :wanted], classes[..., :wanted]
        kept = best.size(-1)
        totals = torch.zeros(batch, 1, device=real.device)
        chosen = torch.zeros(batch, 1, 0, dtype=torch.int64, device=real.device)
        for place in range(width):
            every = (totals[:, :, None] + best[:, place, None, :]).flatten(1)
            totals, order = every.sort(dim=1, descending=True, stable=True)
            totals, order = totals[:, :wanted], order[:, :wanted]
            before = chosen.gather(1, (order // kept)[..., None].expand(-1, -1, place))
            own = classes[:, place].gather(1, order % kept)
            chosen = torch.cat((before, own[..., None]), dim=2)
        totals = totals.masked_fill(chosen.sum(2) < 2, float("-inf"))
        totals, order = totals.sort(dim=1, descending=True, stable=True)
        chosen = chosen.gather(1, order[..., None].expand(-1, -1, width))
        return FertilityCandidates(chosen[:, :count], totals[:, :count])


def _prior(source: Tensor, target: Tensor) -> Tensor:
    """Return the prior's log-probabilities `[batch, source, target]`.

    Args:
        source: `[batch, source]`, True at tokens.
        target: `[batch, target]`, True at tokens.
    """

    def share(real: Tensor) -> Tensor:
        places = torch.arange(real.size(1), device=real.device) + 0.5
        return places / real.sum(1, keepdim=True).clamp(min=1)

    weight = -DIAGONAL * (share(source)[:, :, None] - share(target)[:, None, :]).abs()
    return weight.masked_fill(~source[:, :, None], float("-inf")).log_softmax(1)
