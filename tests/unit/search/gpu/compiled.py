"""Compiles every kernel as the engine launches it, for devices that need not be there; its own process, because the
interpreter, once chosen, is all that a process has. Triton's compiler is stricter than its interpreter.

Prints, for each kernel that is compiled, one line of JSON: its name, the device's capability, its integers, which
matrix instructions it uses, whether it loads 16 bytes at a time, and the registers and spilled bytes of a thread.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import torch

os.environ["TRITON_DUMP_PTXAS_LOG"] = "1"  # read when triton is imported

import triton
from torch import Tensor, nn
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import KernelInterface

from seqkd.search.candidates import RowCandidates
from seqkd.search.frontier import Frontier
from seqkd.search.frontier_state import FrontierState
from seqkd.search.gpu.engine import ALIGNED_ROWS
from seqkd.search.gpu.kernels import TRITON
from seqkd.search.gpu.operations import SelfCache
from seqkd.search.gpu.output import candidates, fused_output
from seqkd.search.gpu.sampling import draw
from seqkd.search.gpu.shapes import multiple
from seqkd.search.settings import BeamSettings, Stopping

TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float64: "*fp64",
    torch.long: "*i64",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}
MATRIX = ("wgmma", "mma.sync")


def compiling(capability: int) -> Callable[[Any, Any], Callable[..., None]]:
    """In place of a launch; what Triton itself does to arguments, as far as it matters."""

    def instead(kernel: Any, _: Any) -> Callable[..., None]:
        def launch(*positional: Any, **named: Any) -> None:
            options = {name: named.pop(name) for name in ("num_warps", "num_stages") if name in named}
            values = dict(zip(kernel.arg_names, positional, strict=False)) | named
            signature, constants, hints = {}, {}, {}
            for index, parameter in enumerate(kernel.params):
                value = values[parameter.name]
                if parameter.is_constexpr or (isinstance(value, int) and value == 1):
                    signature[parameter.name], constants[index,] = "constexpr", value
                    continue
                if isinstance(value, Tensor):
                    signature[parameter.name] = TYPES[value.dtype]
                else:
                    signature[parameter.name] = "i32" if isinstance(value, int) else "fp32"
                if isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
                    hints[index,] = [["tt.divisibility", 16]]
            source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=hints)
            log = io.StringIO()
            with redirect_stdout(log):
                done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            if not log.getvalue():  # it was compiled before
                return
            (registers,) = re.findall(r"Used (\d+) registers", log.getvalue())
            found = {
                "name": kernel.__name__,
                "capability": capability,
                "integers": {name: value for name, value in values.items() if isinstance(value, int)},
                "matrix": [name for name in MATRIX if name in done.asm["ptx"]],
                "wide": "ld.global.v4" in done.asm["ptx"],
                "registers": int(registers),
                "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", log.getvalue()))),
            }
            print(json.dumps(found))

        return launch

    return instead


def launch_all(*, beam: int, heads: int, size: int, dtype: torch.dtype, vocab: int, cases: int = 3) -> None:
    """Every operation once, and the step of the search with this many kinds of settings.

    Sampling is compiled in one of its four forms, or with several cases in each of them.
    """
    dim, count = heads * size, 2 * beam + 3
    places, positions = torch.arange(2), torch.zeros(3, dtype=torch.long)
    cache = SelfCache(
        keys=torch.zeros(3, 50, beam, dim, dtype=dtype), values=torch.zeros(3, 50, beam, dim, dtype=dtype)
    )
    ancestors = torch.zeros(3, beam, 50, dtype=torch.uint8)
    qkv = torch.zeros(2 * beam, 3 * dim, dtype=dtype)
    x = qkv[:, :dim].contiguous()
    TRITON.follow(ancestors, torch.zeros(2, beam, dtype=torch.long), positions, places)
    TRITON.self_attention(qkv, cache, ancestors, positions, places, heads)
    TRITON.cross_attention(x, torch.zeros(3, 40, 2 * dim, dtype=dtype), positions, places, heads)
    TRITON.add_norm(x, x, nn.LayerNorm(dim, dtype=dtype))
    candidates(torch.zeros(2 * beam, vocab), count, 2, torch.zeros(vocab, dtype=dtype))
    if dtype != torch.float32:  # for which the product needs more registers than there are
        for bias in (None, torch.zeros(vocab, dtype=dtype)):
            fused_output(x, torch.zeros(vocab, dim, dtype=dtype), bias, vocab, count, 2)
    draws = ((10, 0.9), (0, 0.9), (1, 1.0), (0, 1.0))
    for most, mass in draws if cases > 1 else draws[:1]:
        draw(torch.zeros(2, beam, vocab), torch.zeros(2, beam, dtype=torch.double), count=most, mass=mass)
    found = RowCandidates(
        lse=torch.zeros(2, beam),
        values=torch.zeros(2, beam, count),
        ids=torch.zeros(2, beam, count, dtype=torch.long),
        eos=torch.zeros(2, beam),
    )
    # Numbers that are 1, as these ids may be, are constants to the compiler.
    kinds: tuple[tuple[Stopping, float, int, int], ...] = (
        ("first", 1.0, 2, 1),
        ("exact", 1.0, 1, 0),
        ("exact", 0.0, 2, 1),
    )
    for stopping, length_penalty, eos, pad in kinds[:cases]:
        settings = BeamSettings(beam=beam, stopping=stopping, length_penalty=length_penalty)
        state = FrontierState.idle(3, beam, 50, torch.device("cpu"))
        searched = Frontier(settings, state, start_id=0, eos_id=eos, pad_id=pad)
        TRITON.advance(searched, found, torch.zeros(2, beam, dtype=torch.long))


def main() -> None:
    """All of it, for devices from Ampere to Blackwell."""
    for capability, cases in ((80, 1), (100, 1), (90, 3)):
        KernelInterface.__getitem__ = compiling(capability)
        launch_all(beam=5, heads=8, size=64, dtype=torch.bfloat16, vocab=32_000, cases=cases)
    launch_all(beam=5, heads=8, size=64, dtype=torch.float16, vocab=31_999, cases=0)
    launch_all(beam=64, heads=16, size=64, dtype=torch.bfloat16, vocab=64_000, cases=1)
    launch_all(beam=1, heads=1, size=24, dtype=torch.float32, vocab=50, cases=1)
    # As the engine does it: rows of logits are padded to a multiple of 64.
    for vocab, count in ((256_206, 12), (128_000, 12), (32_000, 32)):
        logits = torch.zeros(1, multiple(vocab, ALIGNED_ROWS))
        for bias in (None, logits[0].to(torch.bfloat16)):
            candidates(logits[:, :vocab], count, 2, bias)


if __name__ == "__main__":
    main()
