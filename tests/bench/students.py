"""How fast a CTC student is beside its teacher: `python tests/bench/students.py --threads 1`.

Both have random weights and the same sizes; the student decodes greedily, the teacher by beam search. The teacher's
end of sentence is biased until the longest of its hypotheses are as long as their sources on average. All ways to
decode run in one process, in turn: one sentence at a time, and in batches of several sizes, of which the best counts.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Literal

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:  # run as a script
    sys.path.insert(0, str(REPOSITORY))

from seqkd.models.nat.ctc import Ctc, CtcSettings  # noqa: E402
from seqkd.models.protocol import ParallelSettings  # noqa: E402
from seqkd.models.settings import StackSettings  # noqa: E402
from seqkd.models.transformer import Transformer  # noqa: E402
from seqkd.search import BeamSearch, BeamSettings  # noqa: E402
from seqkd.search.cpu.engine import NativeModel  # noqa: E402
from seqkd.search.cpu.stack import NativeParallel  # noqa: E402
from seqkd.search.cpu.weights import Arithmetic, available  # noqa: E402
from seqkd.search.parallel import Decoder, ParallelSearch  # noqa: E402

Sources = list[tuple[int, list[int]]]
BIAS = 0.25
MEAN, SPREAD = 14.0, 4.5  # of the tokens of an English Multi30k caption
VOCABS = {"source_vocab": 8000, "target_vocab": 8000}
SETTINGS: dict[str, Any] = {
    "dim": 256,
    "heads": 4,
    "ffn_dim": 1024,
    "encoder_layers": 3,
    "decoder_layers": 3,
}
BEAM = BeamSettings(beam=5, nbest=5, max_length_ratio=1.0, max_length_extra=3)


def draw_sources(count: int, seed: int) -> Sources:
    """Rows of even random ids."""
    rng = random.Random(seed)
    lengths = [min(40, max(4, round(rng.gauss(MEAN, SPREAD)))) for _ in range(count)]
    return [(row, [rng.randrange(4, 8000) for _ in range(length)]) for row, length in enumerate(lengths)]


def teacher(norm: Literal["pre", "post"] = "post") -> tuple[Transformer, float]:
    """Random weights, and the mean length of each sentence's longest hypothesis."""
    torch.manual_seed(1)
    model = Transformer(StackSettings(**SETTINGS, norm=norm), **VOCABS).eval().requires_grad_(False)
    direction = torch.full((model.dim,), BIAS)
    direction[::2] *= -1
    last = model.decoder[-1].ffn_norm
    assert isinstance(last, torch.nn.LayerNorm)
    last.bias.copy_(direction)
    # Its own copy: the embedding that is read must not change with the logit.
    model.output_weight = torch.nn.Parameter(model.output_weight.clone(), requires_grad=False)
    end = model.output_weight[model.eos_id].clone()
    sources = draw_sources(40, seed=2)
    wanted = statistics.mean(len(source) for _, source in sources)
    low, high, tried = 0.0, 40.0, []

    def bias(shift: float) -> float:
        model.output_weight[model.eos_id] = end + shift / (BIAS**2 * model.dim) * direction
        found = BeamSearch([NativeModel(model, "float32")], BEAM).decode(sources, batch_tokens=1000)
        return statistics.mean(max(len(hypothesis.ids) for hypothesis in kbest) for _, kbest in found)

    for _ in range(12):
        middle = (low + high) / 2
        tried.append((bias(middle), middle))
        low, high = (middle, high) if tried[-1][0] > wanted else (low, middle)
    _, nearest = min(tried, key=lambda pair: abs(pair[0] - wanted))
    return model, bias(nearest)


def ways(upsample: int) -> dict[str, Decoder]:
    """What is timed, by name."""
    wanted: list[Arithmetic] = ["float32", "bf16x3", "bf16", "int8"]
    arithmetics = [arithmetic for arithmetic in wanted if available(arithmetic)]
    model, length = teacher()
    print(f"teacher: longest hypotheses of {length:.1f} tokens on average")
    torch.manual_seed(1)
    student: Any = Ctc(CtcSettings(**SETTINGS, upsample=upsample), **VOCABS).eval()
    found: dict[str, Decoder] = {}
    for arithmetic in arithmetics:
        found[f"teacher, {arithmetic}"] = BeamSearch([NativeModel(model, arithmetic)], BEAM)
    found["ctc, torch float32"] = ParallelSearch(student, ParallelSettings())
    for arithmetic in arithmetics:
        found[f"ctc, {arithmetic}"] = ParallelSearch(NativeParallel(student, arithmetic), ParallelSettings())
    return found


def rate(decoder: Decoder, sources: Sources, batch_tokens: int) -> float:
    """Sentences a second."""
    start = time.perf_counter()
    assert sum(1 for _ in decoder.decode(sources, batch_tokens=batch_tokens)) == len(sources)
    return len(sources) / (time.perf_counter() - start)


def alone(decoder: Decoder, sources: Sources) -> list[float]:
    """Seconds that each sentence takes alone."""
    seconds = []
    for source in sources:
        start = time.perf_counter()
        list(decoder.decode([source], batch_tokens=1000))
        seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--upsample", type=int, default=2)
    parser.add_argument("--sentences", type=int, default=600)
    parser.add_argument("--alone", type=int, default=30, help="sentences that are decoded one at a time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budgets", type=int, nargs="+", default=[500, 1000, 2000, 4000, 8000])
    parser.add_argument("--only", default="", help="a part of the names of what is timed")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    sources = draw_sources(arguments.sentences, seed=3)
    timed = {name: decoder for name, decoder in ways(arguments.upsample).items() if arguments.only in name}
    rates = {name: dict.fromkeys(arguments.budgets, 0.0) for name in timed}
    seconds = {name: [float("inf")] * arguments.alone for name in timed}
    for _ in range(arguments.repeats):
        for name, decoder in timed.items():
            # Other work on the machine only ever adds time: each sentence, and each batch size, has its best.
            now = alone(decoder, sources[: arguments.alone])
            seconds[name] = [min(pair) for pair in zip(seconds[name], now, strict=True)]
            for budget in arguments.budgets:
                rates[name][budget] = max(rates[name][budget], rate(decoder, sources, budget))
    print(f"{'sentences/s':22} {'alone':>8} {'best':>8}  " + " ".join(f"{b:>7}" for b in arguments.budgets))
    for name, found in rates.items():
        single = arguments.alone / sum(seconds[name])
        batches = " ".join(f"{value:7.1f}" for value in found.values())
        print(f"{name:22} {single:8.1f} {max(found.values()):8.1f}  {batches}")


if __name__ == "__main__":
    main()
