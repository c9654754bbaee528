"""`seqkd build-kernels`: compile the CPU kernels ahead of time and show the hardware support of this machine."""

from __future__ import annotations

import time

import typer

from seqkd.cli.options import Debug, importing
from seqkd.errors import WorkError

kernels = typer.Typer()


@kernels.command("build-kernels")
def _build_kernels(debug: Debug = False) -> None:  # noqa: ARG001
    """Compile the CPU kernels ahead of time.

    Print the instruction sets, the compiler and the arithmetics that this machine has.
    """
    with importing():
        from seqkd.kernels import attention, bleu, decoding, dropout, products
        from seqkd.kernels.build import NoKernelsError, compiler_version, find_compiler, open_library
        from seqkd.kernels.cache import cache_folder
        from seqkd.kernels.processors import VARIABLE, available_sets, model_name, requested_set
        from seqkd.search.cpu.weights import ARITHMETIC, available

    command, target = find_compiler(), requested_set()
    _show("processor", model_name())
    _show("instruction sets", ", ".join(one.name for one in available_sets()))
    _show("compiled for", f"{target.name} ({VARIABLE} selects another one)")
    _show("cache folder", str(cache_folder()))
    try:
        _show("compiler", f"{' '.join(command)}: {compiler_version(command).splitlines()[0]}" if command else "none")
    except (OSError, ValueError) as error:
        _show("compiler", f"{' '.join(command or ())}: {error}")
    failed = []
    for module in (decoding, attention, dropout, products, bleu):
        library, started = module.LIBRARY, time.monotonic()
        try:
            _, path, built = open_library(library)
        except NoKernelsError as error:
            failed.append(f"{library.name}: {error}")
            _show(library.name, "missing")
            continue
        _show(
            library.name, f"{path.name}, {f'built in {time.monotonic() - started:.1f} s' if built else 'already built'}"
        )
    if failed:
        raise WorkError(
            "\n  ".join(["not all kernels could be built:", *failed]),
            hint="install g++ or clang++, or set CXX to a compiler; without kernels seqkd works, but more slowly",
        )
    _show("decodes in", ", ".join(name for name in ARITHMETIC if available(name)))
    _show("trains in", "float32, bf16" if products.kernels() is not None else "float32")


def _show(label: str, value: str) -> None:
    print(f"{label:<17} {value}", flush=True)
