"""Compiles every kernel as the engine launches it, for devices that need not be there; its own process, because the
interpreter, once chosen, is all that a process has. Triton's compiler is stricter than its interpreter.

Prints, for each launch, the kernel's name, the device's capability and which matrix instructions it uses, if any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
from torch import Tensor, nn
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import KernelInterface

from seqkd.search.candidates import RowCandidates
from seqkd.search.frontier import Frontier
from seqkd.search.frontier_state import FrontierState
from seqkd.search.gpu.kernels import TRITON
from seqkd.search.gpu.operations import SelfCache
from seqkd.search.gpu.output import candidates, fused_output
from seqkd.search.gpu.sampling import draw
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
            done = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            used = [name for name in MATRIX if name in done.asm["ptx"]]
            print(kernel.__name__, capability, *used)

        return launch

    return instead


def launch_all(*, beam: int, heads: int, size: int, dtype: torch.dtype, vocab: int) -> None:
    """Every operation once."""
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
    candidates(torch.zeros(2 * beam, vocab), count, 2)
    fused_output(x, torch.zeros(vocab, dim, dtype=dtype), count, 2)
    for most, mass in ((0, 1.0), (1, 1.0), (0, 0.9), (10, 0.9)):
        draw(torch.zeros(2, beam, vocab), torch.zeros(2, beam, dtype=torch.double), count=most, mass=mass)
    found = RowCandidates(
        lse=torch.zeros(2, beam),
        values=torch.zeros(2, beam, count),
        ids=torch.zeros(2, beam, count, dtype=torch.long),
        eos=torch.zeros(2, beam),
    )
    # Numbers that are 1, as these ids may be, are constants to the compiler.
    cases: tuple[tuple[Stopping, float, int, int], ...] = (
        ("first", 1.0, 2, 1),
        ("exact", 1.0, 1, 0),
        ("exact", 0.0, 2, 1),
    )
    for stopping, length_penalty, eos, pad in cases:
        settings = BeamSettings(beam=beam, stopping=stopping, length_penalty=length_penalty)
        state = FrontierState.idle(3, beam, 50, torch.device("cpu"))
        searched = Frontier(settings, state, start_id=0, eos_id=eos, pad_id=pad)
        TRITON.advance(searched, found, torch.zeros(2, beam, dtype=torch.long))


def main() -> None:
    """All of it, for devices from Ampere to Blackwell."""
    for capability in (80, 90, 100):
        KernelInterface.__getitem__ = compiling(capability)
        launch_all(beam=5, heads=8, size=64, dtype=torch.bfloat16, vocab=32_000)
    KernelInterface.__getitem__ = compiling(90)
    launch_all(beam=5, heads=8, size=64, dtype=torch.float16, vocab=31_999)
    launch_all(beam=64, heads=16, size=64, dtype=torch.bfloat16, vocab=64_000)
    launch_all(beam=1, heads=1, size=24, dtype=torch.float32, vocab=50)


if __name__ == "__main__":
    main()
