"""A student that writes several frames for each source token (Libovický and Helcl 2018).

One linear layer splits each encoder state into `upsample` decoder inputs, as in the paper's section 3. The decoder
attends to all of them and to the source, and gives each frame a piece or the blank. Equal neighbouring frames are one
piece, and blanks are removed. The blank is the id that begins sentences in other models. No target contains it, and it
has an embedding, so that glancing can show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from seqkd.models.nat.ctc_beam import prefix_beam
from seqkd.models.nat.stack import DecodingStack, ParallelStack
from seqkd.models.nat.upsampling import count_positions, split_states, upsample_mask
from seqkd.models.protocol import Marks, Output, PairLengths, ParallelSettings, too_long
from seqkd.models.settings import StackSettings
from seqkd.text.vocabulary import BOS_ID, EOS_ID, PAD_ID, UNK_ID

TOO_MANY = "longer than the upsampled source"
NO_BLANKS = "longer than the upsampled source with a blank between repeated pieces"


@dataclass(frozen=True, slots=True, kw_only=True)
class CtcSettings(StackSettings):
    """The settings of a Transformer and the number of frames.

    Attributes:
        upsample: Frames for each source token, including end of sentence.
    """

    upsample: Annotated[int, Field(ge=1, le=16, description="output positions for each source token")] = 2


class Ctc(nn.Module):
    """An encoder, upsampling and a bidirectional decoder, trained by connectionist temporal classification.

    Args:
        settings: The settings of the model.
        source_vocab: Number of source pieces, including special ids.
        target_vocab: Number of target pieces, including special ids.
    """

    pad_id, eos_id, unk_id, start_id = PAD_ID, EOS_ID, UNK_ID, EOS_ID
    blank_id = BOS_ID  # separates repeated pieces and fills frames that add no piece

    def __init__(self, settings: CtcSettings, *, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        self.source_vocab, self.target_vocab = source_vocab, target_vocab
        self.max_positions = settings.max_positions
        self.upsample = settings.upsample
        self.stack = ParallelStack(
            settings,
            source_vocab=source_vocab,
            target_vocab=target_vocab,
            decoder_positions=self.upsample * self.max_positions,
        )
        self.split = nn.Linear(settings.dim, self.upsample * settings.dim)
        self._banned = (PAD_ID, EOS_ID)

    def unusable(self, lengths: PairLengths) -> dict[str, Marks]:
        """See `SequenceModel.unusable`. An alignment needs a frame for each piece and a blank before each repeat."""
        frames = count_positions(lengths.source, self.upsample)
        return too_long(lengths, self.max_positions) | {
            TOO_MANY: lengths.target > frames,
            NO_BLANKS: lengths.target + lengths.repeats > frames,
        }

    def frames(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids to `[batch, upsample * source]` bool, True at real frames."""
        return upsample_mask(self.stack.source_mask(source), self.upsample)

    def inputs(self, memory: Tensor) -> Tensor:
        """Map encoder states `[batch, source, dim]` to decoder inputs `[batch, upsample * source, dim]`."""
        return split_states(memory, self.split)

    def translate(
        self, source: Tensor, settings: ParallelSettings, stack: DecodingStack | None = None
    ) -> list[list[Output]]:
        """See `ParallelModel.translate`. `stack` replaces the model's own stack if it is given.

        The strategy greedy takes the best piece of each frame. It gives one output, whose score is the log-probability
        of this alignment. The strategy beam is a prefix beam search with `settings.candidates` prefixes, whose scores
        are log-probabilities of the output, summed over its alignments. auto is greedy for one candidate, otherwise
        beam.
        """
        stack = self.stack if stack is None else stack
        strategy = settings.strategy
        if strategy == "auto":
            strategy = "greedy" if settings.candidates == 1 else "beam"
        if strategy == "greedy":
            return self._greedy(stack, source)
        # The device is asked before it has work, for which the host would otherwise wait.
        count = self.upsample * int(self.stack.source_mask(source).sum())
        features, real = stack.decode_upsampled(source, self.split)
        found = prefix_beam(
            stack,
            features,
            real,
            count=count,
            beam=settings.candidates,
            blank=self.blank_id,
            banned=self._banned,
        )
        return [[Output(ids, logprob, logprob) for ids, logprob in outputs[: settings.nbest]] for outputs in found]

    def strategies(self) -> tuple[str, ...]:
        """See `ParallelModel.strategies`."""
        return ("greedy", "beam")

    def _greedy(self, stack: DecodingStack, source: Tensor) -> list[list[Output]]:
        ids, logprobs = (found.tolist() for found in stack.best_upsampled_pieces(source, self.split, self._banned))
        outputs = []
        start = 0
        for tokens in self.stack.source_mask(source).sum(1).tolist():
            end = start + self.upsample * tokens
            pieces = [piece for piece, _ in groupby(ids[start:end]) if piece != self.blank_id]
            score = sum(logprobs[start:end])
            outputs.append([Output(pieces, score, score)])
            start = end
        return outputs
