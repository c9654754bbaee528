"""The folder to give to fairseq's `--user-dir`: its tasks read seqkd's corpora. See `seqkd.interop.fairseq_task`."""

from __future__ import annotations

import sys
from pathlib import Path

# fairseq imports this folder by its own name, with the folder above it first on the path. There, seqkd's module
# `fairseq` would stand before fairseq itself in the processes that a run on several GPUs starts.
if sys.path[0] == str(Path(__file__).parents[1]):
    del sys.path[0]

# By its full name, and so once, whichever name this package goes by.
from seqkd.interop import fairseq_task as fairseq_task
