"""Architectures of fairseq's own registry (Ott et al. 2019) as models of seqkd: `arch = "fairseq:NAME"`.

fairseq builds the model, computes its loss (`fairseq_loss`) and decodes with it (`fairseq_decoding`). fairseq and seqkd
use the same ids, so they are not converted.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seqkd.errors import ModelError
from seqkd.interop.fairseq_decoding import generate, refine
from seqkd.interop.fairseq_library import (
    ARCH_CONFIG_REGISTRY,
    ARCH_MODEL_NAME_REGISTRY,
    ARCH_MODEL_REGISTRY,
    Dictionary,
    TranslationLevenshteinConfig,
    TranslationLevenshteinTask,
)
from seqkd.models.protocol import Marks, Output, PairLengths, ParallelSettings, too_long
from seqkd.models.settings import FairseqSettings

PREFIX = "fairseq:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement:
    """fairseq's training and decoding of a model that does not write left to right.

    Attributes:
        noise: The noise with which the task `translation_lev` makes the decoder's training input from the target.
        repeats: Whether decoding takes several passes.
        stop_early: Whether a sentence is finished if a pass does not change it.
        lengths: Whether the model predicts the length, so that several lengths can be tried.
    """

    noise: str
    repeats: bool = True
    stop_early: bool = True
    lengths: bool = True


# The noise is that of fairseq's examples for each architecture. Mask-predict always runs all its passes, because
# fairseq would stop after two passes that mask the same tokens and would leave these masked.
PARALLEL: Mapping[str, Refinement] = {
    "cmlm_transformer": Refinement(noise="random_mask", stop_early=False),
    "insertion_transformer": Refinement(noise="random_delete", lengths=False),
    "iterative_nonautoregressive_transformer": Refinement(noise="full_mask"),
    "levenshtein_transformer": Refinement(noise="random_delete", lengths=False),
    "nacrf_transformer": Refinement(noise="full_mask", repeats=False),
    "nonautoregressive_transformer": Refinement(noise="full_mask", repeats=False),
}
LEFT_TO_RIGHT = ("bart", "fconv", "lightconv", "lstm", "transformer", "transformer_align")

# fairseq evaluates some options as Python. The allowed values cannot call functions or compute anything large: they are
# names, or lists of numbers that may be repeated and joined.
_NAME = re.compile(r"[\w .:,/+-]{0,1000}")
_NUMBERS = re.compile(r"(?:[\d\s\[\](),.]|True|False){0,200}(?:\* *\d{1,3} *)?")

_INSTEAD = {
    "max_source_positions": "give max_positions beside `settings`",
    "max_target_positions": "give max_positions beside `settings`",
    "encoder_embed_path": "start from a model folder with init_from",
    "decoder_embed_path": "start from a model folder with init_from",
    "merge_src_tgt_embed": "prepare with vocabulary.joint = true, and set share_all_embeddings",
}


def architectures() -> list[str]:
    """Return the names of fairseq's translation models, including variants such as `transformer_iwslt_de_en`."""
    models = {*PARALLEL, *LEFT_TO_RIGHT}
    return sorted(name for name, model in ARCH_MODEL_NAME_REGISTRY.items() if model in models)


def build(arch: str, settings: FairseqSettings, *, source_vocab: int, target_vocab: int) -> FairseqModel:
    """Build a model with fresh weights.

    Args:
        arch: `fairseq:` and a name of fairseq's registry.
        settings: fairseq's own options, and the longest text.
        source_vocab: Number of source pieces, including special ids.
        target_vocab: Number of target pieces, including special ids.

    Raises:
        ModelError: The name does not exist, or fairseq does not accept the options.
    """
    name = arch.removeprefix(PREFIX)
    if name not in architectures():
        raise ModelError(
            f"fairseq has no architecture {name!r} for translation", expected=f"one of: {', '.join(architectures())}"
        )
    model = ARCH_MODEL_NAME_REGISTRY[name]
    refinement = PARALLEL.get(model)
    options = _options(name, settings.settings)
    # Models with refinement read and write a beginning of sentence besides the end of sentence.
    options.max_source_positions = options.max_target_positions = settings.max_positions + (refinement is not None)
    options.label_smoothing = 0.0  # the objective sets it
    options.criterion = "label_smoothed_cross_entropy"  # the LSTM reads it
    ARCH_CONFIG_REGISTRY[name](options)
    if model == "nacrf_transformer" and options.crf_beam_approx > target_vocab:
        raise ModelError(
            f"crf_beam_approx {options.crf_beam_approx} is more than the vocabulary's {target_vocab} pieces",
            where=f"settings of {arch}",
        )
    task = TranslationLevenshteinTask(
        TranslationLevenshteinConfig(noise=refinement.noise if refinement else "no_noise"),
        _dictionary(source_vocab),
        _dictionary(target_vocab),
    )
    try:
        net = ARCH_MODEL_REGISTRY[name].build_model(options, task)
    except Exception as error:  # fairseq checks few of its options, so that the others can raise any exception
        raise ModelError(
            f"fairseq cannot build it: {error or type(error).__name__}", where=f"settings of {arch}"
        ) from error
    return FairseqModel(
        net,
        task,
        refinement,
        source_vocab=source_vocab,
        target_vocab=target_vocab,
        max_positions=settings.max_positions,
    )


class FairseqModel(nn.Module):
    """A model of fairseq.

    Args:
        net: fairseq's module.
        task: fairseq's task with the dictionaries and the noise.
        refinement: Training and decoding of the model; None if it writes left to right.
        source_vocab: Number of source pieces, including special ids.
        target_vocab: Number of target pieces, including special ids.
        max_positions: Longest source or target in tokens, including end of sentence.

    Attributes:
        shared_embeddings: Whether source and target share one table.
    """

    def __init__(
        self,
        net: Any,
        task: Any,
        refinement: Refinement | None,
        *,
        source_vocab: int,
        target_vocab: int,
        max_positions: int,
    ) -> None:
        super().__init__()
        self.net, self.task, self.refinement = net, task, refinement
        self.source_vocab, self.target_vocab, self.max_positions = source_vocab, target_vocab, max_positions
        dictionary = task.target_dictionary
        self.bos_id, self.pad_id, self.unk_id = dictionary.bos(), dictionary.pad(), dictionary.unk()
        self.eos_id = self.start_id = dictionary.eos()
        self.shared_embeddings = net.encoder.embed_tokens is net.decoder.embed_tokens

    def unusable(self, lengths: PairLengths) -> dict[str, Marks]:
        """See `SequenceModel.unusable`."""
        return too_long(lengths, self.max_positions)

    def inputs(self, source: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the inputs of fairseq's encoders.

        Args:
            source: `[batch, source]` ids, with end of sentence and padded on the right.

        Returns:
            The order of the rows, `[batch]` int64, longest first as the LSTM needs them; and in this order `src_tokens`
            `[batch, source]` and `src_lengths` `[batch]`. If the model does not write left to right, `src_tokens` is
            `[batch, source + 1]`, because the model also reads a beginning of sentence.
        """
        lengths = source.ne(self.pad_id).sum(1)
        order = lengths.argsort(descending=True, stable=True)
        tokens, lengths = source[order], lengths[order]
        if self.refinement is not None:
            tokens, lengths = self.add_begin(tokens), lengths + 1
        return order, {"src_tokens": tokens, "src_lengths": lengths}

    def add_begin(self, ids: Tensor) -> Tensor:
        """Prepend a beginning of sentence to each row of `[batch, length]` ids, giving `[batch, length + 1]`."""
        return torch.cat((ids.new_full((len(ids), 1), self.bos_id), ids), 1)

    def translate(self, source: Tensor, settings: ParallelSettings) -> Sequence[Sequence[Output]]:
        """See `ParallelModel.translate`.

        If the model writes left to right, `settings.candidates` is the beam, and an output has at most 200 tokens, the
        default of fairseq. Otherwise `settings.candidates` is the number of lengths to try (1 for a model that predicts
        no length), and `settings.iterations` is the number of passes of a model that takes several.
        """
        order, inputs = self.inputs(source)
        dictionary, way = self.task.target_dictionary, self.refinement
        if way is None:
            found = generate(self.net, dictionary, inputs, beam=settings.candidates)
        else:
            found = refine(
                self.net,
                dictionary,
                inputs,
                passes=settings.iterations if way.repeats else 1,
                stop_early=way.stop_early,
                candidates=settings.candidates if way.lengths else 1,
                longest=self.max_positions + 1,
            )
        rows = dict(zip(order.tolist(), found, strict=True))
        return [rows[row][: settings.nbest] for row in range(len(found))]

    def strategies(self) -> tuple[str, ...]:
        """See `ParallelModel.strategies`."""
        return ("beam",) if self.refinement is None else ("greedy",)


def _dictionary(size: int) -> Any:
    """Make a dictionary with the special ids, which fairseq and seqkd share, and placeholders for the other pieces."""
    dictionary = Dictionary()
    for index in range(len(dictionary), size):
        dictionary.add_symbol(str(index))
    return dictionary


def _harmless(value: object) -> bool:
    if not isinstance(value, str) or _NAME.fullmatch(value):
        return True
    return all(_NUMBERS.fullmatch(part) for part in value.split("+"))


def _options(name: str, settings: Mapping[str, Any]) -> argparse.Namespace:
    """Return the options of an architecture, parsed as `fairseq-train` parses its command line.

    Raises:
        ModelError: fairseq does not have an option or cannot read its value.
    """
    where = f"settings of {PREFIX}{name}"
    parser = argparse.ArgumentParser(
        add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS, exit_on_error=False
    )
    ARCH_MODEL_REGISTRY[name].add_args(parser)
    known = {action.dest: action for action in parser._actions}
    if unknown := sorted(settings.keys() - known.keys()):
        raise ModelError(
            f"fairseq's {name} has no option {', '.join(unknown)}",
            where=where,
            expected=f"some of: {', '.join(sorted(known.keys() - _INSTEAD.keys()))}",
        )
    if other := sorted(settings.keys() & _INSTEAD.keys()):
        raise ModelError(f"{other[0]} cannot be set here", where=where, hint=_INSTEAD[other[0]])
    flags = {option for option in settings if known[option].nargs == 0}
    if wrong := sorted(option for option in flags if not isinstance(settings[option], bool)):
        raise ModelError(f"{wrong[0]} is {settings[wrong[0]]!r}", where=where, expected="true or false")
    for option, value in settings.items():
        if not _harmless(value):
            what = f"{option} is {value[:60]!r}, and fairseq would run it as a program"
            raise ModelError(what, where=where, expected="a name, or numbers in brackets such as [(512, 3)] * 4")
    words = [f"{known[o].option_strings[0]}={value}" for o, value in settings.items() if o not in flags]
    try:
        options = parser.parse_args(words)
    except argparse.ArgumentError as error:
        raise ModelError(str(error), where=where) from None
    for option in flags:
        setattr(options, option, settings[option])
    return options
