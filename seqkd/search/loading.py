"""Loading of model folders for search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from seqkd.errors import InputError, ModelError
from seqkd.extensions import resolve
from seqkd.models.checkpoint import LoadedModel, load_model, read_config
from seqkd.models.functional import leave_out_cudnn_attention
from seqkd.models.protocol import ParallelModel, ParallelSettings
from seqkd.models.registry import ARCHITECTURES, Architecture
from seqkd.search.cpu.engine import NativeModel
from seqkd.search.cpu.scoring import NativeScorer
from seqkd.search.cpu.weights import Arithmetic, available, usable
from seqkd.search.gpu.engine import runs_here
from seqkd.search.parallel import Pair, ParallelSearch, Recode
from seqkd.search.protocol import SearchModel
from seqkd.text.vocabularies import TextVocabulary, Vocabularies

Available = Callable[[Arithmetic], bool]
Precision = Literal["float32", "bf16x3", "bf16", "int8", "fp16"]
# The data type of a module's weights for each precision. Modules cannot compute in int8; only the kernels can.
DTYPES = {"float32": torch.float32, "bf16x3": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The hardware that a CPU needs for the precisions that only the kernels offer.
HARDWARE: dict[Arithmetic, str] = {
    "bf16x3": "a bf16 matrix unit (AMX)",
    "int8": "int8 products (AMX, AVX-512 VNNI or AVX2)",
}


# Source tokens that are decoded together if the settings leave the number to seqkd. A GPU is idle with few.
BATCH_TOKENS = {"cpu": 4_000, "cuda": 65_536}


@dataclass(frozen=True, slots=True)
class SearchTeam:
    """Loaded models for decoding.

    Attributes:
        engines: The models for `BeamSearch`; empty for a model that writes all positions at once.
        writer: The model for `ParallelSearch`; None for models that decode left to right.
        loaded: The same models as modules, with their vocabularies.
        precision: Precision of the weights.
        device: The device of the models.
        in_float32: Returns the same models in float32, which are loaded once; None if they are in float32 already.
    """

    engines: Sequence[SearchModel]
    writer: ParallelModel | None
    loaded: Sequence[LoadedModel]
    precision: Precision
    device: torch.device
    in_float32: Callable[[], SearchTeam] | None

    @property
    def fallback(self) -> Callable[[], Sequence[SearchModel]] | None:
        """Return a function that returns the engines in float32; see `BeamSearch`."""
        again = self.in_float32
        return None if again is None else lambda: again().engines

    @property
    def scorers(self) -> list[Any]:
        """Return the models for `score_pairs` in the team's precision: CPU kernels if possible, otherwise modules."""
        return [
            NativeScorer(engine) if isinstance(engine, NativeModel) and engine.attends else loaded.model
            for engine, loaded in zip(self.engines, self.loaded, strict=True)
        ]

    @property
    def scorers_in_float32(self) -> Callable[[], list[Any]] | None:
        """Return a function that returns the scorers in float32; see `score_pairs`."""
        again = self.in_float32
        return None if again is None else lambda: again().scorers

    @property
    def max_positions(self) -> int:
        """The longest source or target that all models accept, in tokens, including end of sentence."""
        models: list[Any] = [loaded.model for loaded in self.loaded]
        return min(int(model.max_positions) for model in models)

    @property
    def prefix(self) -> tuple[int, ...]:
        """Target ids with which every output begins, such as the language of an imported model."""
        return self.loaded[0].vocabularies.target.prefix

    @property
    def parallel(self) -> bool:
        """Whether the model writes all positions at once."""
        return self.writer is not None


def _allocate_on(device: torch.device) -> None:
    torch.empty(0, device=device)


def resolve_device(
    device: str,
    *,
    allocate: Callable[[torch.device], None] = _allocate_on,
    count: Callable[[], int] = torch.cuda.device_count,
) -> torch.device:
    """Resolve a device, and set up torch for it. `auto` is the first CUDA device, or the CPU if there is none.

    Args:
        device: auto, cpu, cuda or cuda:N.
        allocate: Fails if the device cannot be used.
        count: Returns the number of CUDA devices.

    Raises:
        InputError: The device does not exist on this machine.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError:
        raise InputError(f"there is no device {device!r}", expected="auto, cpu, cuda or cuda:N") from None
    if found.type == "cuda":
        there = count()
        if not there:
            raise InputError(
                f"there is no device {device!r}: this machine has no CUDA device, or this torch is built without CUDA",
                expected="auto or cpu",
            )
        if (found.index or 0) >= there:
            known = "cuda:0" if there == 1 else f"cuda:0 to cuda:{there - 1}"
            raise InputError(
                f"there is no device {device!r}: this machine has {there} CUDA device{'s' * (there > 1)}",
                expected=f"auto, cpu, cuda, or {known}",
            )
    try:
        allocate(found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"device {device!r} cannot be used here: {reason}", expected="auto, cpu, cuda or cuda:N"
        ) from None
    leave_out_cudnn_attention(found)
    return found


def resolve_batch_tokens(batch_tokens: Literal["auto"] | int, device: torch.device) -> int:
    """Resolve the number of source tokens that are decoded together on this device."""
    if batch_tokens != "auto":
        return batch_tokens
    return BATCH_TOKENS.get(device.type, BATCH_TOKENS["cpu"])


def resolve_precision(
    precision: Literal["auto"] | Precision, device: torch.device, *, available: Available = available
) -> Precision:
    """Resolve a precision. `auto` is bf16 on CUDA, bf16x3 on a CPU with a matrix unit, and float32 on other CPUs.

    Args:
        precision: The requested precision.
        device: The device of the models.
        available: Tells whether this CPU has the products of an arithmetic.

    Raises:
        InputError: The hardware does not support bf16x3 or int8.
    """
    if device.type != "cpu":
        if precision in HARDWARE:
            raise InputError(f"precision {precision} is for CPUs", expected="float32, bf16 or fp16")
        return "bf16" if precision == "auto" else precision
    if precision == "auto":
        return "bf16x3" if available("bf16x3") else "float32"
    if precision != "fp16" and precision in HARDWARE and not available(precision):
        others = [name for name in HARDWARE if available(name)]
        raise InputError(
            f"precision {precision} needs a CPU with {HARDWARE[precision]} and a C++ compiler",
            expected=f"{', '.join(['auto', 'float32', *others])} or bf16 on this machine",
        )
    return precision


def team_precision(
    paths: Sequence[str | Path],
    precision: Literal["auto"] | Precision,
    device: torch.device,
    *,
    available: Available = available,
) -> Precision:
    """Resolve the precision of models as `resolve_precision` does, but use float32 if bf16x3 lacks kernels for a model.

    Args:
        paths: Model folders.
        precision: The requested precision.
        device: The device of the models.
        available: See `resolve_precision`.

    Raises:
        ModelError: A folder does not contain a model.
        InputError: See `resolve_precision`; or there are no int8 kernels for one of the models.
    """
    chosen = resolve_precision(precision, device, available=available)
    without = [path for path in paths if not _has_kernels(path)] if chosen in HARDWARE else []
    if without and chosen == "int8":
        known = ", ".join(record.name for record in ARCHITECTURES.all() if record.cpu is not None)
        raise InputError(
            "the CPU engine has no int8 kernels for this model",
            where=", ".join(map(str, without)),
            expected=f"{known}; dim / heads 16, 32, 48, 64, 80, 96 or 128 and ffn_dim a multiple of 16; of an lstm, "
            "dim a multiple of 32",
            hint="leave precision at auto, or give float32 or bf16",
        )
    return "float32" if without else chosen


def _has_kernels(folder: str | Path) -> bool:
    config = read_config(folder)
    record = ARCHITECTURES.find(config["arch"])
    if record is None or record.cpu is None:
        return False
    try:
        return resolve(record.cpu.misfit)(config["settings"]) is None
    except (KeyError, TypeError, ValueError, ZeroDivisionError):  # loading the model reports the problem
        return False


def check_left_to_right(folder: str | Path) -> None:
    """Check by the configuration of a model folder that the model gives left-to-right probabilities.

    Raises:
        ModelError: The model does not, or the folder does not contain a model.
    """
    record = ARCHITECTURES.find(read_config(folder)["arch"])
    if record is not None and not record.left_to_right:
        raise _parallel_error(folder)


def load_team(
    paths: Sequence[str | Path], *, device: str, precision: Literal["auto"] | Precision, parallel: bool = False
) -> SearchTeam:
    """Load one model, or the members of an ensemble.

    Args:
        paths: Model folders.
        device: auto, cpu, cuda or cuda:N.
        precision: Precision of the weights; see `team_precision`.
        parallel: Whether a single model that writes all positions at once is accepted, too.

    Raises:
        ModelError: A folder does not contain a model, the vocabularies differ, or a model does not decode left to
            right.
        InputError: The device does not exist on this machine.
    """
    where = resolve_device(device)
    chosen = team_precision(paths, precision, where)
    # The kernels pack float32 weights themselves.
    dtype = torch.float32 if where.type == "cpu" and chosen != "fp16" else DTYPES[chosen]
    loaded = [load_model(path, dtype=dtype, device=where) for path in paths]
    for path, model in zip(paths[1:], loaded[1:], strict=True):
        for (side, own), (_, wanted) in zip(model.vocabularies.sides(), loaded[0].vocabularies.sides(), strict=True):
            if own.digest != wanted.digest:
                raise ModelError(
                    f"its {side} vocabulary is not that of the first model",
                    where=str(path),
                    expected=f"the vocabulary of {paths[0]}",
                    hint="ensemble only models that were trained with one vocabulary",
                )

    @cache
    def in_float32() -> SearchTeam:
        return load_team(paths, device=str(where), precision="float32", parallel=parallel)

    written_at_once = [path for path, model in zip(paths, loaded, strict=True) if not record_of(model).left_to_right]
    if written_at_once and parallel and len(paths) == 1:
        chosen_writer = build_parallel_model(loaded[0], chosen)
        return SearchTeam(
            engines=(),
            writer=chosen_writer,
            loaded=loaded,
            precision=chosen,
            device=where,
            in_float32=None if chosen == "float32" else in_float32,
        )
    if written_at_once:
        raise _parallel_error(written_at_once[0])
    return SearchTeam(
        engines=[build_engine(model, chosen) for model in loaded],
        writer=None,
        loaded=loaded,
        precision=chosen,
        device=where,
        in_float32=None if chosen == "float32" else in_float32,
    )


def _parallel_error(folder: str | Path) -> ModelError:
    return ModelError(
        "it writes all positions at once and gives no left-to-right probabilities",
        where=str(folder),
        expected="a model that decodes left to right, such as a Transformer or an LSTM",
    )


def build_engine(
    loaded: LoadedModel, precision: Precision, *, on_gpu: Callable[[nn.Module], bool] = runs_here
) -> SearchModel:
    """Build the fastest engine that decodes with a model step by step.

    Args:
        loaded: The model.
        precision: Precision of its weights.
        on_gpu: Tells whether the kernels of the GPU engine support the device of a model.

    Raises:
        ModelError: The architecture does not decode left to right.
    """
    model, record = loaded.model, ARCHITECTURES.find(loaded.arch)
    if record is None or record.plain is None:
        raise ModelError(f"beam search cannot drive the architecture {loaded.arch!r}")
    if precision != "fp16" and record.cpu is not None and usable(model) and available(precision):
        return resolve(record.cpu.engine)(model, precision)  # type: ignore[no-any-return]
    model = model.to(DTYPES[precision])
    driver = record.gpu if record.gpu is not None and on_gpu(model) else record.plain
    return resolve(driver)(model)  # type: ignore[no-any-return]


def build_parallel_model(loaded: LoadedModel, precision: Precision) -> ParallelModel:
    """Build the fastest decoder of a model that writes all positions at once."""
    model: Any = loaded.model
    kernels = record_of(loaded).cpu
    if precision != "fp16" and kernels is not None and usable(model.stack) and available(precision):
        return resolve(kernels.engine)(model, precision)  # type: ignore[no-any-return]
    return model.to(DTYPES[precision])  # type: ignore[no-any-return]


def record_of(loaded: LoadedModel) -> Architecture:
    """Return the record of a model's architecture.

    Raises:
        ModelError: There is no such architecture.
    """
    record = ARCHITECTURES.find(loaded.arch)
    if record is None:
        raise ModelError(f"unknown architecture {loaded.arch!r}", expected=f"one of: {ARCHITECTURES.known()}")
    return record


def recoder(own: Vocabularies, other: Vocabularies) -> Recode | None:
    """Return a function that converts pairs of ids to those of other vocabularies, by their text.

    Returns:
        None if the vocabularies are the same.
    """
    if own.digests() == other.digests():
        return None

    def convert(ids: list[list[int]], ours: TextVocabulary, theirs: TextVocabulary) -> list[list[int]]:
        return theirs.encode(theirs.normalize(ours.decode(ids)))

    def recode(pairs: Sequence[Pair]) -> list[Pair]:
        sources = convert([source for source, _ in pairs], own.source, other.source)
        targets = convert([target for _, target in pairs], own.target, other.target)
        return list(zip(sources, targets, strict=True))

    return recode


def parallel_search(team: SearchTeam, settings: ParallelSettings, judge: SearchTeam | None = None) -> ParallelSearch:
    """Build the search of a model that writes all positions at once, whose candidates `judge` may rescore.

    Raises:
        InputError: The model does not support the strategy.
    """

    def again() -> ParallelSearch:
        plain, chosen = (None if one is None or one.in_float32 is None else one.in_float32() for one in (team, judge))
        return parallel_search(plain or team, settings, chosen or judge)

    lower = any(one is not None and one.in_float32 is not None for one in (team, judge))
    return ParallelSearch(
        team.writer,
        settings,
        rescorers=() if judge is None else judge.scorers[:1],
        recode=None if judge is None else recoder(team.loaded[0].vocabularies, judge.loaded[0].vocabularies),
        fallback=again if lower else None,
    )
