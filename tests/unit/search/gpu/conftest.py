"""Before this folder's tests import the kernels."""

from __future__ import annotations

import importlib.util

from tests import triton_interpreter

if importlib.util.find_spec("triton") is not None:
    triton_interpreter.repair()
