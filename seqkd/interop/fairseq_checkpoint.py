"""Reading of fairseq's checkpoints without running any code that they may contain.

Checkpoints are pickles. They are read with torch's `weights_only=True`. Besides tensors and plain values, these may be
in a checkpoint: training arguments (`argparse.Namespace`); NumPy arrays of numbers, which `--eval-bleu` leaves; and the
meters of early versions, in whose place an object without code is made.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from seqkd.errors import ModelError
from seqkd.interop.pickles import check_pickles

# The name of a refused class or function in torch's message.
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


class _Meter:
    """Stands for a meter of fairseq, whose values are not needed."""


_make_array = cast(Callable[..., Any], np.empty(0).__reduce__()[0])
_make_number = cast(Callable[..., Any], np.float64(0).__reduce__()[0])
_METERS = [
    f"fairseq.{module}.{name}"
    for module in ("meters", "logging.meters")
    for name in ("AverageMeter", "MetersDict", "StopwatchMeter", "SumMeter", "TimeMeter")
]
# NumPy 1 and 2 have different names for the functions that make arrays and numbers.
_NAMED: list[tuple[Any, str]] = [
    *((_make_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    *((_make_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_Meter, name) for name in _METERS),
]
SAFE: list[Any] = [
    argparse.Namespace,
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")),
    *_NAMED,
]
_SAFE_NAMES = {"argparse.Namespace", "numpy.ndarray", "numpy.dtype", *(name for _, name in _NAMED)}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Load a `.pt` file without running any code that it may contain.

    Raises:
        ModelError: The file does not exist, is not a fairseq checkpoint, or needs other classes than `SAFE`.
    """
    try:
        check_pickles(path)
        with torch.serialization.safe_globals(SAFE):
            contents = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unreadable(path, error) from None
    except pickle.UnpicklingError as error:
        raise _unsafe(path, error) from None
    except ModelError:
        raise
    except Exception as error:  # the type of the unpickler's exception depends on the damage
        what = str(error).split("\n", 1)[0] or type(error).__name__
        raise ModelError(f"not a checkpoint: {what}", where=str(path), expected="a .pt file of fairseq") from None
    if not isinstance(contents, dict) or not isinstance(contents.get("model"), dict):
        raise ModelError("not a fairseq checkpoint: it has no `model`", where=str(path))
    return contents


def file_digest(path: Path) -> str:
    """Return the SHA-256 (hex) of a file.

    Raises:
        ModelError: The file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise _unreadable(path, error) from None
    return digest.hexdigest()


def _unreadable(path: Path, error: OSError) -> ModelError:
    what = f"cannot be read: {error.strerror}"
    return ModelError(what, where=str(path), expected="a .pt file of fairseq", hint="check the path")


def _unsafe(path: Path, error: pickle.UnpicklingError) -> ModelError:
    try:
        needed = set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # a file from before torch's zip format, or another kind of damage
        needed = set(_GLOBAL.findall(str(error)))
    listed = ", ".join(sorted(needed - _SAFE_NAMES))
    return ModelError(
        f"it can only be loaded by running code: it needs {listed}" if listed else "not a checkpoint, or damaged",
        where=str(path),
        expected="tensors, arrays of numbers, plain values, training arguments and fairseq's meters",
        hint="if you trust the file, load it with fairseq and save only its `args` (or `cfg`) and `model` entries",
    )
