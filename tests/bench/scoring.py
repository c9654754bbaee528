"""How fast given translations are scored: `python tests/bench/scoring.py --threads 1`.

The teacher of `students.py`. Pairs in batches are its own lists of five, and the same pairs in an order where no two
neighbours have one source (apart). One source at a time has nine candidates, of as many lengths around its own; beside
it stand the teacher's beam search of that source, and a student of half its width that writes such candidates and lets
the teacher choose (noisy parallel decoding). All ways run in one process, in turn.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:  # run as a script
    sys.path.insert(0, str(REPOSITORY))

from seqkd.models.nat.lengths import REACH  # noqa: E402
from seqkd.models.nat.vanilla import Nat, NatSettings  # noqa: E402
from seqkd.models.protocol import ParallelSettings  # noqa: E402
from seqkd.search import BeamSearch, score_pairs  # noqa: E402
from seqkd.search.cpu.engine import NativeModel  # noqa: E402
from seqkd.search.cpu.scoring import NativeScorer  # noqa: E402
from seqkd.search.cpu.stack import NativeParallel  # noqa: E402
from seqkd.search.cpu.weights import Arithmetic, available  # noqa: E402
from seqkd.search.parallel import Decoder, ParallelSearch  # noqa: E402
from tests.bench.students import BEAM, SETTINGS, VOCABS, Sources, alone, draw_sources, teacher  # noqa: E402

Pairs = Sequence[tuple[list[int], list[int]]]
ARITHMETICS: tuple[Arithmetic, ...] = ("float32", "bf16x3", "bf16", "int8")
TORCH = "torch float32"


def candidates(sources: Sources, count: int) -> list[Pairs]:
    """Of each source `count` targets of random ids, whose lengths differ by one."""
    rng = random.Random(7)
    lists: list[Pairs] = []
    for _, source in sources:
        shortest = max(1, len(source) - count // 2)
        targets = ([rng.randrange(4, 8000) for _ in range(shortest + more)] for more in range(count))
        lists.append([(source, target) for target in targets])
    return lists


def student() -> Nat:
    """Random weights, and lengths that are the likelier the nearer they are to the source's."""
    torch.manual_seed(2)
    model = Nat(NatSettings(**{**SETTINGS, "dim": 128, "ffn_dim": 512}), **VOCABS).eval().requires_grad_(False)
    assert model.lengths is not None
    model.lengths.classes.weight.zero_()
    model.lengths.classes.bias.copy_(-torch.arange(-REACH, REACH).abs())
    return model


def seconds(model: Any, pairs: Pairs, batch_tokens: int) -> float:
    """That the pairs take together."""
    start = time.perf_counter()
    score_pairs([model], pairs, batch_tokens=batch_tokens)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sentences", type=int, default=100, help="sources of the pairs that are scored in batches")
    parser.add_argument("--alone", type=int, default=20, help="sources that are scored one at a time")
    parser.add_argument("--candidates", type=int, default=9)
    parser.add_argument("--batch-tokens", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, _ = teacher()
    arithmetics = [arithmetic for arithmetic in ARITHMETICS if available(arithmetic)]
    engines: dict[str, NativeModel] = {name: NativeModel(model, name) for name in arithmetics}
    scorers: dict[str, Any] = {TORCH: model} | {name: NativeScorer(engine) for name, engine in engines.items()}
    writes = student()
    writers: dict[str, NativeParallel] = {name: NativeParallel(writes, name) for name in arithmetics}
    nine = ParallelSettings(candidates=arguments.candidates)
    decoders: dict[str, Decoder] = {f"{name}, search": BeamSearch([engine], BEAM) for name, engine in engines.items()}
    for name, scorer in scorers.items():
        writer: Any = writers.get(name, writers["float32"])
        decoders[f"{name}, chosen"] = ParallelSearch(writer, nine, rescorers=[scorer])

    sources = draw_sources(arguments.sentences, seed=3)
    kbest = dict(decoders["float32, search"].decode(sources, batch_tokens=1000))
    pairs = [(source, hypothesis.ids) for row, source in sources for hypothesis in kbest[row]]
    # The same, but no two neighbours have one source.
    apart = [pair for rank in range(BEAM.nbest) for pair in pairs[rank :: BEAM.nbest]]
    single = sources[: arguments.alone]
    groups = candidates(single, arguments.candidates)

    # Other work on the machine only ever adds time: each call has its best.
    together, scattered = (dict.fromkeys(scorers, float("inf")) for _ in range(2))
    best = {name: [float("inf")] * len(groups) for name in (*scorers, *decoders)}
    for _ in range(arguments.repeats):
        for name, scorer in scorers.items():
            together[name] = min(together[name], seconds(scorer, pairs, arguments.batch_tokens))
            scattered[name] = min(scattered[name], seconds(scorer, apart, arguments.batch_tokens))
            now = [seconds(scorer, group, arguments.batch_tokens) for group in groups]
            best[name] = [min(both) for both in zip(best[name], now, strict=True)]
        for name, decoder in decoders.items():
            best[name] = [min(both) for both in zip(best[name], alone(decoder, single), strict=True)]

    milliseconds = {name: f"{1000 * sum(found) / len(found):.2f}" for name, found in best.items()}
    length = sum(len(target) + 1 for _, target in pairs) / len(pairs)
    print(f"batches: {len(pairs)} pairs of {length:.1f} target tokens on average; the rest: ms for a source alone")
    count = arguments.candidates
    heads = (f"{count} scored", f"{count} written, scored", "beam search")
    print(f"{'':14} {'pairs/s':>9} {'apart':>9} {heads[0]:>12} {heads[1]:>20} {heads[2]:>13}")
    for name in scorers:
        found = (milliseconds[name], milliseconds[f"{name}, chosen"], milliseconds.get(f"{name}, search", ""))
        rates = f"{len(pairs) / together[name]:9.1f} {len(apart) / scattered[name]:9.1f}"
        print(f"{name:14} {rates} {found[0]:>12} {found[1]:>20} {found[2]:>13}")


if __name__ == "__main__":
    main()
