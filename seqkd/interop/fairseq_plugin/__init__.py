"""The folder to give to fairseq's `--user-dir`: its tasks read seqkd's corpora. See `seqkd.interop.fairseq_task`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

# fairseq imports this folder by its own name, with the folder above it first on the path. There, seqkd's module
# `fairseq` would stand before fairseq itself in the processes that a run on several GPUs starts.
if sys.path[0] == str(Path(__file__).parents[1]):
    del sys.path[0]

# fairseq loads its checkpoints by torch's default, which runs no code of theirs and so takes plain values and tensors
# only. They hold training arguments, too, and with `--eval-bleu` arrays of counts.
_make_array = cast(Callable[..., Any], np.empty(0).__reduce__()[0])
torch.serialization.add_safe_globals(
    [argparse.Namespace, _make_array, np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in (int, float))]
)

# By its full name, and so once, whichever name this package goes by.
from seqkd.interop import fairseq_task as fairseq_task  # noqa: E402
