"""The engine that decodes with a model, and the reason if it is not the fast one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from seqkd.kernels import decoding
from seqkd.kernels.build import missing_kernels
from seqkd.models.checkpoint import read_config
from seqkd.models.registry import ARCHITECTURES, misfit
from seqkd.search.cpu.engine import NativeModel
from seqkd.search.cpu.stack import NativeParallel
from seqkd.search.gpu.engine import GraphTransformer
from seqkd.search.gpu.requirements import kernels_on, misfit_on
from seqkd.search.loading import Precision, SearchTeam


def engine_of(team: SearchTeam) -> str:
    """Return the engine of a team: `cpu`, `gpu` or `plain` (torch); several are joined by `+`."""
    drivers: Sequence[object] = team.engines or [team.writer]
    return "+".join(dict.fromkeys(map(_engine, drivers)))


def _engine(driver: object) -> str:
    if isinstance(driver, (NativeModel, NativeParallel)):
        return "cpu"
    return "gpu" if isinstance(driver, GraphTransformer) else "plain"


def engine_for(folders: Sequence[Path], precision: Precision, device: torch.device) -> str:
    """Predict the engine of these models, as in `engine_of`; `plain` if one of them needs it.

    Raises:
        ModelError: A folder does not contain a model.
    """
    if device.type == "cpu":
        return "cpu" if slow_path(folders, precision, device) is None else "plain"
    return "gpu" if _driven_on_gpu(folders) and kernels_on(device) else "plain"


def _driven_on_gpu(folders: Sequence[Path]) -> bool:
    records = [ARCHITECTURES.find(read_config(folder)["arch"]) for folder in folders]
    return all(record is not None and record.gpu is not None for record in records)


def slow_path(
    folders: Sequence[Path],
    precision: Precision,
    device: torch.device,
    *,
    misfit_on: Callable[[torch.device], str | None] = misfit_on,
) -> str | None:
    """Explain why models decode in plain torch, more slowly than with the kernels.

    Args:
        folders: The model folders.
        precision: The precision of decoding.
        device: The device of the models.
        misfit_on: Returns why the kernels do not run on a CUDA device.

    Returns:
        One line, or None if the kernels decode with the models, or if there are none for them on this kind of device.

    Raises:
        ModelError: A folder does not contain a model.
    """
    if device.type == "cuda":
        why = misfit_on(device) if _driven_on_gpu(folders) else None
        return None if why is None else f"plain torch: {why}"
    if precision == "fp16":
        return "plain torch: the CPU kernels have no fp16"
    for folder in folders:
        config = read_config(folder)
        why = misfit(config["arch"], config["settings"])
        if why is not None:
            return f"plain torch: {why}"
    return missing_kernels()["decoding"] if decoding.kernels() is None else None
