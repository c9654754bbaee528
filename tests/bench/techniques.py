"""What each technique of the search gives on a CPU: `python tests/bench/techniques.py --model DIR --corpus DIR`.

Everything runs in this process on one thread, over the first sentences of a prepared corpus. Each line takes one thing
away from the full engine, or changes one setting, and says how much slower (or faster) the decode became.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import unittest.mock
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:  # run as a script
    sys.path.insert(0, str(REPOSITORY))

from seqkd.corpus.reader import Corpus  # noqa: E402
from seqkd.models.checkpoint import load_model  # noqa: E402
from seqkd.models.transformer import Transformer  # noqa: E402
from seqkd.search import BeamSearch, BeamSettings, SearchModel  # noqa: E402
from seqkd.search.cpu.engine import NativeModel  # noqa: E402
from seqkd.search.cpu.weights import available  # noqa: E402
from seqkd.search.plain.transformer import IncrementalTransformer  # noqa: E402

Sources = list[tuple[int, list[int]]]


class WithoutFusion:
    """The engine with its logits written out and reduced by torch."""

    def __init__(self, inner: NativeModel) -> None:
        self.inner = inner
        self.target_vocab, self.max_positions, self.device = inner.target_vocab, inner.max_positions, inner.device
        self.pad_id, self.eos_id, self.unk_id = inner.pad_id, inner.eos_id, inner.unk_id
        self.start_id = inner.start_id
        self.new_state, self.admit, self.step = inner.new_state, inner.admit, inner.step
        self.reorder, self.release, self.shrink = inner.reorder, inner.release, inner.shrink


class Copying:
    """The torch engine with caches that are copied to follow the beams, as most toolkits do it."""

    def __init__(self, inner: IncrementalTransformer) -> None:
        self.inner = inner
        self.target_vocab, self.max_positions, self.device = inner.target_vocab, inner.max_positions, inner.device
        self.pad_id, self.eos_id, self.unk_id = inner.pad_id, inner.eos_id, inner.unk_id
        self.start_id = inner.start_id
        self.new_state, self.admit, self.step = inner.new_state, inner.admit, inner.step
        self.release, self.shrink = inner.release, inner.shrink

    @torch.inference_mode()
    def reorder(self, state: Any, parents: Tensor) -> None:
        """Copy keys and values so that each beam owns its history; the ancestors then all point at themselves."""
        seen = int(state.host_positions.max())
        for buffers in (state.keys, state.values):
            for buffer in buffers:
                index = parents[:, None, :, None].expand(-1, seen, -1, buffer.size(-1))
                buffer[:, :seen] = buffer[:, :seen].gather(2, index)
        own = torch.arange(parents.size(1))[None, :, None].expand(parents.size(0), -1, seen)
        state.ancestors[:, :, :seen] = own


def decode(engine: SearchModel, settings: BeamSettings, sources: Sources, batch_tokens: int) -> None:
    for _ in BeamSearch([engine], settings).decode(sources, batch_tokens=batch_tokens):
        pass


@contextmanager
def steps_in_torch() -> Iterator[None]:
    """Each step of the search as torch's operations, as on a GPU."""
    with unittest.mock.patch("seqkd.search.frontier.kernels", return_value=None):
        yield


def decode_stepping_in_torch(engine: SearchModel, settings: BeamSettings, sources: Sources, batch_tokens: int) -> None:
    with steps_in_torch():
        decode(engine, settings, sources, batch_tokens)


def one_batch_after_the_other(
    engine: SearchModel, settings: BeamSettings, sources: Sources, batch_tokens: int, *, by_length: bool
) -> None:
    """Without refill: each batch ends with its longest sentence before the next one starts."""
    ordered = sorted(sources, key=lambda row: -len(row[1])) if by_length else sources
    batch: Sources = []
    for row in ordered:
        if batch and (len(batch) + 1) * (1 + max(len(source) for _, source in [*batch, row])) > batch_tokens:
            decode(engine, settings, batch, batch_tokens)
            batch = []
        batch.append(row)
    decode(engine, settings, batch, batch_tokens)


def seconds(work: Callable[[], None], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True, help="a prepared corpus, e.g. runs/NAME/gold/train")
    parser.add_argument("--sentences", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--batch-tokens", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("build/bench/techniques.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = cast(Transformer, load_model(options.model).model)
    table = next(Corpus.open(options.corpus, "corpus").tables(["id", "source_ids"])).slice(0, options.sentences)
    sources: Sources = list(zip(table.column("id").to_pylist(), table.column("source_ids").to_pylist(), strict=True))
    beam = BeamSettings(beam=options.beam, nbest=options.beam)
    tokens = options.batch_tokens
    plain = IncrementalTransformer(model)
    full = NativeModel(model, "bf16x3" if available("bf16x3") else "float32")
    rows: list[tuple[str, Callable[[], None]]] = [
        ("full engine", lambda: decode(full, beam, sources, tokens)),
        ("logits written and reduced by torch", lambda: decode(WithoutFusion(full), beam, sources, tokens)),
        ("steps of the search in torch", lambda: decode_stepping_in_torch(full, beam, sources, tokens)),
        ("no refill, sorted by length", lambda: one_batch_after_the_other(full, beam, sources, tokens, by_length=True)),
        ("no refill, not sorted", lambda: one_batch_after_the_other(full, beam, sources, tokens, by_length=False)),
        ("float32 on the vector unit", lambda: decode(NativeModel(model, "float32"), beam, sources, tokens)),
        ("torch engine, float32", lambda: decode(plain, beam, sources, tokens)),
        ("torch engine, caches copied", lambda: decode(cast(SearchModel, Copying(plain)), beam, sources, tokens)),
    ]
    rows.append(("bf16", lambda: decode(NativeModel(model, "bf16"), beam, sources, tokens)))
    if available("int8"):
        rows.append(("int8", lambda: decode(NativeModel(model, "int8"), beam, sources, tokens)))
    for size in (250, 500, 1000, 4000, 8000):
        rows.append((f"batches of {size:,} tokens", lambda size=size: decode(full, beam, sources, size)))  # type: ignore[misc]
    decode(full, beam, sources[:100], tokens)
    results: list[dict[str, Any]] = []
    for name, work in rows:
        taken = seconds(work, options.repeats)
        speed = len(sources) / taken
        base = results[0]["sentences_per_second"] if results else speed
        results.append({"what": name, "sentences_per_second": speed, "of_full": speed / base})
        print(f"{name:40} {speed:8.1f} sentences/s  {speed / base:5.2f} of full", flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"beam": options.beam, "batch_tokens": tokens, "rows": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
