"""The folder for fairseq's `--user-dir`. Its tasks read seqkd's corpora; see `seqkd.interop.fairseq_task`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

# fairseq imports this folder by its own name and puts the folder above it first on the path. In the processes of a run
# on several GPUs, seqkd's module `fairseq` would then be imported in place of fairseq itself.
if sys.path[0] == str(Path(__file__).parents[1]):
    del sys.path[0]

# fairseq loads its checkpoints with torch's defaults, which run no code and therefore accept only plain values and
# tensors. The checkpoints also contain training arguments and, with `--eval-bleu`, arrays of counts.
_make_array = cast(Callable[..., Any], np.empty(0).__reduce__()[0])
torch.serialization.add_safe_globals(
    [argparse.Namespace, _make_array, np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in (int, float))]
)

# The module is imported by its full name, so that it is loaded only once, whatever the name of this package is.
from seqkd.interop import fairseq_task as fairseq_task  # noqa: E402
