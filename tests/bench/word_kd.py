"""What the loss of word-level distillation costs: `python tests/bench/word_kd.py --threads 1`.

Features and output layers of a student and a teacher are random. Loss and gradients with a live teacher, by the CPU's
kernels and in plain torch, take turns in one process; beside them stands the likelihood alone. Products are in bf16.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:  # run as a script
    sys.path.insert(0, str(REPOSITORY))

from seqkd.objectives.divergence import Mixture, full_divergence  # noqa: E402
from seqkd.objectives.native_kd import kernels_serve, native_kd  # noqa: E402
from seqkd.objectives.projection import projected_nll  # noqa: E402
from seqkd.objectives.teacher import Answer  # noqa: E402
from seqkd.objectives.word_kd import projected_kd  # noqa: E402

SMOOTHING = 0.1


def losses(tokens: int, vocab: int, widths: tuple[int, int]) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    """The ways to compare, by name.

    Args:
        tokens: Rows of logits.
        vocab: Their columns.
        widths: Of the student's and the teacher's features.
    """
    torch.manual_seed(1)
    (features, weight), member = ((torch.randn(tokens, n), torch.randn(vocab, n) * n**-0.5) for n in widths)
    targets = torch.randint(vocab, (tokens,))
    weight.requires_grad_()
    mixture = Mixture(1.0, 0.5, SMOOTHING)

    def student() -> Tensor:
        return features.clone().requires_grad_()

    def teacher() -> Answer:
        return Answer([member], torch.bfloat16)

    def plain() -> tuple[Tensor, Tensor]:
        given = teacher()

        def divergence(logprobs: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
            return full_divergence(logprobs, given.logprobs(start, stop), "forward")

        return projected_kd(student(), weight, targets, divergence, mixture)[:2]

    found = {"likelihood alone": lambda: projected_nll(student(), weight, targets, SMOOTHING), "plain torch": plain}
    if kernels_serve(features, weight, teacher(), mixture):
        found["kernels"] = lambda: native_kd(student(), weight, targets, teacher(), mixture)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Print milliseconds, best of several turns, and the ratio to plain torch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocab", type=int, default=8000)
    parser.add_argument("--repeats", type=int, default=4)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    for widths in ((128, 256), (192, 384), (512, 512)):
        best: dict[str, float] = {}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ways = losses(options.tokens, options.vocab, widths)
            for _ in range(options.repeats):
                for name, loss in ways.items():
                    start = time.perf_counter()
                    loss()
                    best[name] = min(best.get(name, float("inf")), time.perf_counter() - start)
        for name, seconds in best.items():
            ratio = best["plain torch"] / seconds
            print(f"{widths[0]} from {widths[1]}, {name}: {1000 * seconds:.0f} ms, {ratio:.2f} x")


if __name__ == "__main__":
    main()
