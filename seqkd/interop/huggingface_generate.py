"""Encoder-decoder models of transformers as a source of k-best lists, decoded by the library's own beam search.

It serves the architectures that `seqkd import huggingface` cannot convert, such as T5 with its relative positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from seqkd.errors import ModelError
from seqkd.interop.huggingface_files import CONFIG, GENERATION_CONFIG, TOKENIZER_CONFIG, read_json
from seqkd.interop.huggingface_hub import locate
from seqkd.interop.sources import Answer, Candidate, Place, Row
from seqkd.models.protocol import SOURCE_TOO_LONG

_INPUTS = ("*.json", "*.txt", "*.model", "*.spm", "*.safetensors", "*.bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateSettings:
    """A model and the settings of the library's beam search.

    Other options of the search, such as `no_repeat_ngram_size`, are those of the model's generation_config.json.
    """

    model: Annotated[str, Field(min_length=1, description="a folder, or the name of a model on the hub (OWNER/NAME)")]
    revision: Annotated[str | None, Field(description="the revision of a model on the hub; by default its newest")] = (
        None
    )
    nbest: Annotated[int, Field(ge=1, le=64, description="hypotheses of each row")] = 5
    beam: Annotated[int, Field(ge=2, le=64, description="beams of the search, at least `nbest`")] = 5
    length_penalty: Annotated[
        float, Field(ge=-10.0, le=10.0, description="exponent of the length by which log-probabilities are divided")
    ] = 1.0
    max_new_tokens: Annotated[int, Field(ge=1, le=10_000, description="longest output in tokens")] = 256
    text_prefix: Annotated[
        str, Field(description="text that is put before every source, such as `translate English to German: `")
    ] = ""
    source_language: Annotated[str | None, Field(description="the source language, as the tokenizer names it")] = None
    target_language: Annotated[str | None, Field(description="the target language, as the tokenizer names it")] = None
    batch_rows: Annotated[int, Field(ge=1, le=4096, description="rows that are decoded together")] = 16
    precision: Annotated[
        Literal["float32", "bf16", "fp16"], Field(description="precision of the weights and of the arithmetic")
    ] = "float32"

    def __post_init__(self) -> None:
        if self.nbest > self.beam:
            raise ValueError(f"nbest {self.nbest} is more than beam {self.beam}")


class Generator:
    """Translates rows with `generate` of transformers; see `RowTranslator`.

    A hypothesis has the library's score: its log-probability divided by its length, including the end of sentence, to
    the power of `length_penalty`. Neither counts a first token that is forced.

    Args:
        settings: The model and the settings of the search.
        place: The device and the threads.

    Raises:
        ModelError: There is no such model, the library cannot load it, it needs code of its own, or it does not have a
            language.
    """

    def __init__(self, settings: GenerateSettings, place: Place) -> None:
        import torch

        from seqkd.search.loading import DTYPES, resolve_device

        if place.threads is not None:
            torch.set_num_threads(place.threads)
        folder = locate(settings.model, settings.revision)
        _check_code(folder)
        self._settings, self._device = settings, resolve_device(place.device)
        self._tokenizer = _load("AutoTokenizer", folder)
        self._model, loading = _load(
            "AutoModelForSeq2SeqLM", folder, dtype=DTYPES[settings.precision], output_loading_info=True
        )
        if missing := sorted(loading["missing_keys"]):
            raise ModelError(f"weights are missing: {', '.join(missing[:6])}", where=str(folder))
        self._model = self._model.to(self._device).eval()
        self._longest = getattr(self._model.config, "max_position_embeddings", None)
        self._options = {
            "num_beams": settings.beam,
            "num_return_sequences": settings.nbest,
            "length_penalty": settings.length_penalty,
            "max_new_tokens": settings.max_new_tokens,
            "max_length": None,
            "do_sample": False,
            "output_scores": True,
            "return_dict_in_generate": True,
        }
        if settings.source_language is not None:
            self._tokenizer.src_lang = self._token(settings.source_language, folder)
        if settings.target_language is not None:
            token = self._token(settings.target_language, folder)
            self._options["forced_bos_token_id"] = self._tokenizer.convert_tokens_to_ids(token)

    def _token(self, language: str, folder: Path) -> str:
        if self._tokenizer.convert_ids_to_tokens(self._tokenizer.convert_tokens_to_ids(language)) != language:
            raise ModelError(f"the tokenizer has no language {language!r}", where=str(folder))
        return language

    def __call__(self, rows: Sequence[Row]) -> Answer:
        """See `RowTranslator`."""
        texts = [self._settings.text_prefix + row.text for row in rows]
        sources: list[list[int]] = self._tokenizer(texts)["input_ids"] if texts else []
        lists: list[list[Candidate]] = [[] for _ in rows]
        fitting = [place for place, ids in enumerate(sources) if self._longest is None or len(ids) <= self._longest]
        fitting.sort(key=lambda place: -len(sources[place]))
        for first in range(0, len(fitting), self._settings.batch_rows):
            batch = fitting[first : first + self._settings.batch_rows]
            for place, found in zip(batch, self._decode([sources[place] for place in batch]), strict=True):
                lists[place] = found
        return Answer(lists=lists, counts={SOURCE_TOO_LONG: len(rows) - len(fitting)})

    def _decode(self, sources: Sequence[Sequence[int]]) -> Iterator[list[Candidate]]:
        import torch

        batch = self._tokenizer.pad({"input_ids": list(sources)}, return_tensors="pt", return_attention_mask=True)
        with torch.inference_mode():
            made = self._model.generate(
                input_ids=batch["input_ids"].to(self._device),
                attention_mask=batch["attention_mask"].to(self._device),
                **self._options,
            )
        outputs: list[list[int]] = made.sequences[:, 1:].tolist()  # without the start
        texts: list[str] = self._tokenizer.batch_decode(outputs, skip_special_tokens=True)
        found = [
            self._candidate(text, ids, score)
            for text, ids, score in zip(texts, outputs, made.sequences_scores.tolist(), strict=True)
        ]
        for first in range(0, len(found), self._settings.nbest):
            yield found[first : first + self._settings.nbest]

    def _candidate(self, text: str, ids: Sequence[int], score: float) -> Candidate:
        eos = self._tokenizer.eos_token_id
        ended = eos in ids
        length = ids.index(eos) + 1 if ended else len(ids)
        return Candidate(
            text=" ".join(text.split()),
            score=score,
            logprob=score * length**self._settings.length_penalty,
            ended="eos" if ended else "max_length",
        )


def inputs(settings: GenerateSettings) -> Mapping[str, str]:
    """Return the digest of the model's files."""
    folder = locate(settings.model, settings.revision)
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _INPUTS for path in folder.glob(pattern)}):
        with path.open("rb") as file:
            own = hashlib.sha256()
            while block := file.read(1 << 20):
                own.update(block)
        digest.update(f"{path.name} {own.hexdigest()}\n".encode())
    return {"model": digest.hexdigest()}


def _check_code(folder: Path) -> None:
    """Refuse models that need Python code of their own."""
    read_json(folder / CONFIG)
    for name in (TOKENIZER_CONFIG, GENERATION_CONFIG):
        read_json(folder / name, optional=True)


def _load(name: str, folder: Path, **options: Any) -> Any:
    from seqkd.interop.huggingface_library import transformers

    try:
        loaded = getattr(transformers, name).from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, **options
        )
    except Exception as error:  # the library raises errors of many classes
        line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(f"transformers cannot load it: {line}", where=str(folder)) from None
    return loaded
