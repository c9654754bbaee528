"""Model folders of CTranslate2 as a source of k-best lists (the extra `ctranslate2`)."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from seqkd.errors import ModelError, WorkError
from seqkd.interop.ctranslate2_files import CONFIG, MODEL, read_config
from seqkd.interop.ctranslate2_pieces import TokenizerFiles, find_tokenizer
from seqkd.interop.sources import Answer, Candidate, Place, Row
from seqkd.models.checkpoint import combine_digests, file_digest
from seqkd.models.protocol import SOURCE_TOO_LONG

ComputeType = Literal[
    "default",
    "auto",
    "float32",
    "float16",
    "bfloat16",
    "int16",
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class CTranslate2Settings:
    """The model, its tokenizer, and the settings of its search.

    Raises:
        ValueError: More hypotheses are wanted than the beam has, a source tokenizer comes without one of the target, or
            a prefix is too long.
    """

    model: Annotated[Path, Field(description="a model folder of CTranslate2")]
    tokenizer: Annotated[
        Path | None,
        Field(description="a SentencePiece model, or a folder with a tokenizer of Hugging Face; left out: in `model`"),
    ] = None
    source_tokenizer: Annotated[
        Path | None, Field(description="the SentencePiece model of the source, if it differs from `tokenizer`")
    ] = None
    source_prefix: Annotated[
        tuple[str, ...], Field(description="pieces that every source starts with, such as the code of its language")
    ] = ()
    target_prefix: Annotated[
        tuple[str, ...], Field(description="pieces that every target starts with; they are no part of the text")
    ] = ()
    beam: Annotated[int, Field(ge=1, le=64, description="hypotheses kept alive")] = 5
    nbest: Annotated[int, Field(ge=1, le=64, description="hypotheses written, at most `beam`")] = 1
    length_penalty: Annotated[
        float, Field(ge=-10.0, le=10.0, description="score = log-probability / length ** length_penalty")
    ] = 1.0
    max_length_ratio: Annotated[float, Field(ge=0.0, description="longest output = ratio * source pieces + extra")] = (
        2.0
    )
    max_length_extra: Annotated[int, Field(ge=1, description="see max_length_ratio")] = 10
    max_positions: Annotated[
        int,
        Field(ge=4, description="longest source or target in pieces, including end of sentence and prefix"),
    ] = 512
    compute_type: Annotated[
        ComputeType, Field(description="the type of the products; default: the type in which the model is stored")
    ] = "default"
    batch_tokens: Annotated[int, Field(ge=1, description="source pieces that are decoded together")] = 2048

    def __post_init__(self) -> None:
        if self.nbest > self.beam:
            raise ValueError(f"nbest {self.nbest} is more than beam {self.beam}")
        if self.source_tokenizer is not None and self.tokenizer is None:
            raise ValueError("source_tokenizer needs tokenizer, the one of the target")
        if max(len(self.source_prefix), len(self.target_prefix)) > self.max_positions - 2:
            raise ValueError(f"max_positions {self.max_positions} leaves no place behind the prefix")


class Teacher:
    """Decodes rows by CTranslate2's beam search. All threads decode batches of their own.

    Args:
        settings: The model and the settings of its search.
        place: The device and the threads.

    Raises:
        ModelError: The library is missing, the folder has no model or no tokenizer, or the device does not support the
            type of the products.
    """

    def __init__(self, settings: CTranslate2Settings, place: Place) -> None:
        self._settings = settings
        config = read_config(settings.model)
        self._tokenizer = _tokenizer_files(settings).load()
        self._translator = _load(settings, place)
        self._eos = str(config.get("eos_token", "</s>"))
        self._ends_source = not config.get("add_source_eos", False)

    def __call__(self, rows: Sequence[Row]) -> Callable[[], Answer]:
        """Decode rows together, and return the function that makes the texts."""
        settings = self._settings
        encoded = self._tokenizer.encode([row.text for row in rows])
        sources = [[*settings.source_prefix, *pieces] for pieces in encoded]
        most = settings.max_positions - 1
        usable = [0 < len(source) <= most for source in sources]
        # A call has one limit of the length, so that rows of equal length share a call.
        groups: dict[int, list[int]] = defaultdict(list)
        for index, source in enumerate(sources):
            if usable[index]:
                groups[len(source)].append(index)
        started: dict[int, Any] = {}
        for length in sorted(groups, reverse=True):
            started |= self._decode(sources, groups[length])
        return partial(self._answer, rows, started, sum(len(source) > most for source in sources))

    def _decode(self, sources: Sequence[Sequence[str]], group: Sequence[int]) -> dict[int, Any]:
        """Start the decoding of rows whose sources have equal lengths, and return the future result of each."""
        settings, prefix = self._settings, list(self._settings.target_prefix)
        length = len(sources[group[0]]) - len(settings.source_prefix)
        limit = math.ceil(settings.max_length_ratio * length) + settings.max_length_extra
        end = [self._eos] if self._ends_source else []
        started = self._translator.translate_batch(
            [[*sources[index], *end] for index in group],
            [prefix] * len(group) if prefix else None,
            max_batch_size=settings.batch_tokens,
            batch_type="tokens",
            asynchronous=True,
            beam_size=settings.beam,
            num_hypotheses=settings.nbest,
            length_penalty=settings.length_penalty,
            return_scores=True,
            return_end_token=True,
            max_input_length=0,  # nothing is cut off
            max_decoding_length=min(limit + len(prefix), settings.max_positions),  # the prefix counts
            # The default bars an empty output, which changes the probabilities of all others.
            min_decoding_length=0,
        )
        return dict(zip(group, started, strict=True))

    def _answer(self, rows: Sequence[Row], started: Mapping[int, Any], too_long: int) -> Answer:
        """Wait for the hypotheses, and make their texts."""
        found = {index: self._wait(rows[index], result) for index, result in started.items()}
        written = [self._text_pieces(pieces) for result in found.values() for pieces in result.hypotheses]
        texts = iter(self._tokenizer.decode(written))
        lists = {
            index: [
                self._candidate(next(texts), pieces, score)
                for pieces, score in zip(result.hypotheses, result.scores, strict=True)
            ]
            for index, result in found.items()
        }
        return Answer(lists=[lists.get(index, []) for index in range(len(rows))], counts={SOURCE_TOO_LONG: too_long})

    def _wait(self, row: Row, result: Any) -> Any:
        try:
            return result.result()
        except RuntimeError as error:
            raise WorkError(
                f"CTranslate2 cannot decode it: {error}",
                where=f"row {row.id}",
                hint="set max_positions of the source to the number of the model's positions",
            ) from None

    def _text_pieces(self, pieces: list[str]) -> list[str]:
        written = pieces[len(self._settings.target_prefix) :]
        return written[:-1] if written[-1:] == [self._eos] else written

    def _candidate(self, text: str, pieces: list[str], score: float) -> Candidate:
        # The score counts the length of the prefix, but not its log-probability.
        ended = "eos" if pieces[-1:] == [self._eos] else "max_length"
        logprob = score * len(pieces) ** self._settings.length_penalty
        return Candidate(text=text, score=score, logprob=logprob, ended=ended)


def inputs(settings: CTranslate2Settings) -> dict[str, str]:
    """Return the digest of the model and of its tokenizer.

    Raises:
        ModelError: A file is missing or cannot be read.
    """
    read_config(settings.model)
    files = _tokenizer_files(settings).list_files()
    own = sorted(settings.model.glob("*vocabulary*"))
    return {
        "model": _digest([settings.model / MODEL, settings.model / CONFIG, *own]),
        "tokenizer": _digest(files),
    }


def _tokenizer_files(settings: CTranslate2Settings) -> TokenizerFiles:
    return find_tokenizer(settings.model, settings.source_tokenizer, settings.tokenizer)


def _digest(paths: Sequence[Path]) -> str:
    try:
        return combine_digests({f"{number} {path.name}": file_digest(path) for number, path in enumerate(paths)})
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(error.filename)) from None


def _load(settings: CTranslate2Settings, place: Place) -> Any:
    from seqkd.interop.ctranslate2_library import ctranslate2

    device, _, index = place.device.partition(":")
    offered = ctranslate2.get_supported_compute_types(device)
    if settings.compute_type not in ("default", "auto", *offered):
        raise ModelError(
            f"{device} does not support the compute type {settings.compute_type}",
            where=str(settings.model),
            expected=f"one of: default, auto, {', '.join(sorted(offered))}",
        )
    threads = place.threads or len(os.sched_getaffinity(0))
    try:
        return ctranslate2.Translator(
            str(settings.model),
            device=device,
            device_index=int(index or 0),
            compute_type=settings.compute_type,
            inter_threads=threads if device == "cpu" else 1,
            intra_threads=1 if device == "cpu" else 0,
        )
    except (RuntimeError, ValueError) as error:
        raise ModelError(
            f"CTranslate2 cannot load it: {error}",
            where=str(settings.model),
            expected="a model folder of an encoder-decoder Transformer",
            hint="copy or convert the model again",
        ) from None
