"""Triton kernels without a GPU: they run in Triton's interpreter, slowly."""

from __future__ import annotations

import os
import types
from typing import Any

import torch


def choose() -> None:
    """Use the interpreter where there is no GPU; before anything imports triton, which asks only then."""
    if not torch.cuda.is_available():
        os.environ["TRITON_INTERPRET"] = "1"


def repair() -> None:
    """Let loops have bounds that a kernel computes, and set the language up once a launch.

    The interpreter holds scalars in arrays of one element, which NumPy from 2.4 on does not turn into numbers. And it
    replaces Triton's language by its own again for each function that a kernel calls, half of all its time.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        return
    import triton.language as tl
    from triton.runtime import interpreter

    set_up = interpreter._patch_lang
    if getattr(set_up, "repaired", False):
        return
    set_up_tensor = interpreter._patch_lang_tensor
    everything = types.FunctionType((lambda: None).__code__, {"tl": tl, "core": tl.core})
    launches = 0

    def repaired_tensor(tensor: Any, scope: Any) -> None:
        set_up_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    def repaired(_: Any) -> Any:
        nonlocal launches
        if launches:
            return interpreter._LangPatchScope()
        scope = set_up(everything)
        restore = scope.restore
        launches += 1

        def finish() -> None:
            nonlocal launches
            restore()
            launches -= 1

        scope.restore = finish
        return scope

    repaired.repaired = True  # type: ignore[attr-defined]
    interpreter._patch_lang_tensor = repaired_tensor
    interpreter._patch_lang = repaired
