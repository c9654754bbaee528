"""Before any test is collected."""

from __future__ import annotations

from tests import triton_interpreter

triton_interpreter.choose()
