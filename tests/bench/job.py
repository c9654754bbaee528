"""What a distillation of a size needs, counted and replayed: `python tests/bench/job.py --pipeline FILE --rows N`.

- Arithmetic of each training, by counting the products of a forward pass, from the settings in the pipeline file.
- Steps of the search: the scheduler decodes sentences whose lengths are drawn, with a model that only ends them.
- Bytes of a row of every kind of file: `--text SOURCE TARGET` is prepared, its references are written as lists.

GPU hours follow from two assumptions, which nobody has measured: the rate of a GPU's matrix unit times a share of it
that is reached (`--share`), and the time of a step of the search (`--step`: milliseconds, and microseconds a
hypothesis).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:  # run as a script
    sys.path.insert(0, str(REPOSITORY))

from seqkd.config.stages import DistillConfig, PrepareConfig, TrainConfig  # noqa: E402
from seqkd.corpus.reader import Corpus  # noqa: E402
from seqkd.corpus.soft import SoftRow, soft_table  # noqa: E402
from seqkd.corpus.writer import write_shard  # noqa: E402
from seqkd.models.registry import build  # noqa: E402
from seqkd.pipeline.reading import read_pipeline  # noqa: E402
from seqkd.pipeline.stages import plan_stages  # noqa: E402
from seqkd.search import BeamSearch, BeamSettings  # noqa: E402
from seqkd.search.pace import PACES  # noqa: E402
from seqkd.stages.prepare import prepare  # noqa: E402

BF16_FLOPS = 788e12  # of an H200's matrix unit
TEACHERS_BEAM = 5
# A backward pass costs two forward passes. Glancing adds a forward pass without one.
PASSES, GLANCING_PASSES = 3, 4
LONGEST = 90


def product_flops(arch: str, model: dict[str, Any], vocab: int) -> tuple[float, float, float]:
    """FLOPs of the products for a source token, a decoder position, and a position of the output layer.

    Two a multiply-add. Attention over positions is not counted: with 28 tokens it is less than 3 % at width 512.
    """
    built: Any = build(arch, model, source_vocab=8, target_vocab=8)
    stack = built if hasattr(built, "encoder") else built.stack

    def products(module: torch.nn.Module) -> float:
        return 2.0 * sum(weight.numel() for weight in module.parameters() if weight.dim() > 1)

    return products(stack.encoder), products(stack.decoder), 2.0 * model["dim"] * vocab


def update_flops(config: TrainConfig, vocab: int) -> float:
    """FLOPs of an update, both sides of which have the tokens that the stage file allows a batch.

    A little too many: keys and values of the source are counted for each decoder position, and `cmlm` reads out masked
    positions only.
    """
    model = config.model.model_dump()
    arch = model.pop("arch")
    source, position, output = product_flops(arch, model, vocab)
    positions = model.get("upsample", 1)
    glances = any(getattr(term.settings, "glancing", None) is not None for term in config.objective.terms)
    token = source + positions * (position + output)
    tokens = config.training.batch_tokens * config.training.accumulate
    return float((GLANCING_PASSES if glances else PASSES) * token * tokens)


@dataclass
class Slots:
    """The state of `Replay`: when each slot's sentence ends, and where it is."""

    ends: Tensor
    positions: Tensor


@dataclass
class Replay:
    """A `SearchModel` whose sentences end at drawn lengths, and which counts its steps.

    Attributes:
        steps: Hypotheses in each step.
    """

    steps: list[int] = field(default_factory=list)
    target_vocab: int = 6
    pad_id: int = 1
    eos_id: int = 2
    unk_id: int = 3
    start_id: int = 2
    max_positions: int = 1024
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def new_state(self, slots: int, beam: int, max_source: int, max_target: int) -> Slots:
        """See `SearchModel.new_state`."""
        del beam, max_source, max_target
        return Slots(torch.zeros(slots, dtype=torch.long), torch.zeros(slots, dtype=torch.long))

    def admit(self, state: Slots, slots: Tensor, source: Tensor) -> None:
        """A source of n tokens of the id 10 + k has an output of n * k / 100 tokens."""
        tokens = source.gt(self.eos_id).sum(dim=1)
        state.ends[slots] = (tokens * (source[:, 0] - 10) / 100).round().long().clamp(min=1)
        state.positions[slots] = 0

    def step(self, state: Slots, tokens: Tensor) -> Tensor:
        """See `SearchModel.step`."""
        self.steps.append(tokens.numel())
        logits = torch.tensor([-30.0, -30.0, -30.0, -30.0, 0.0, -1.0]).repeat(*tokens.shape, 1)
        logits[..., self.eos_id] = torch.where(state.positions >= state.ends, 20.0, -30.0)[:, None]
        state.positions += 1
        return logits

    def reorder(self, state: Slots, parents: Tensor) -> None:
        """See `SearchModel.reorder`: all hypotheses of a slot are alike."""

    def release(self, state: Slots, slots: Tensor) -> None:
        """See `SearchModel.release`."""

    def shrink(self, state: Slots, slots: Tensor) -> None:
        """See `SearchModel.shrink`."""
        state.ends, state.positions = state.ends[slots], state.positions[slots]


def replay(rows: int, batch_tokens: int, *, beam: int, middle: float = 3.15, spread: float = 0.55) -> dict[str, float]:
    """Decode drawn lengths with the pace of a GPU: steps, hypotheses in a step, and the share of them that is alive.

    Sources have log-normal lengths; outputs are 0.8 to 1.3 times as long.
    """
    rng = random.Random(1)
    lengths = [min(LONGEST, max(2, round(rng.lognormvariate(middle, spread)))) for _ in range(rows)]
    sources = [(row, [10 + rng.randrange(80, 131)] * length) for row, length in enumerate(lengths)]
    model = Replay()
    settings = BeamSettings(beam=beam, max_length_ratio=2.0, max_length_extra=10)
    found = dict(BeamSearch([model], settings, pace=PACES["cuda"]).decode(sources, batch_tokens=batch_tokens))
    targets = [len(kbest[0].ids) + 1 for kbest in found.values()]
    return {
        "source_tokens": sum(lengths) / rows + 1,
        "target_tokens": sum(targets) / rows,
        "steps": len(model.steps),
        "hypotheses_a_step": sum(model.steps) / len(model.steps),
        "alive": beam * sum(targets) / sum(model.steps),
    }


def decode_rate(rows: int, replayed: dict[str, float], step: tuple[float, float]) -> float:
    """Sentences a second, if a step takes so many milliseconds and so many microseconds a hypothesis."""
    each = step[0] * 1e-3 + step[1] * 1e-6 * replayed["hypotheses_a_step"]
    return rows / (replayed["steps"] * each)


def hours(pipeline: Path, rows: int, share: float, step: tuple[float, float]) -> list[dict[str, Any]]:
    """GPU hours of the stages of a pipeline that a GPU works on."""
    read = read_pipeline(pipeline)
    vocab = read.prepare.vocabulary.size
    found: list[dict[str, Any]] = []
    for stage in plan_stages(read, Path("runs")):
        config = stage.config
        if isinstance(config, TrainConfig):
            flops = update_flops(config, vocab) * config.training.max_updates
            floor = flops / BF16_FLOPS / 3600
            found.append({"stage": stage.name, "exaflop": flops / 1e18, "floor_hours": floor, "hours": floor / share})
        elif isinstance(config, DistillConfig):
            replayed = replay(10_000, 65_536, beam=config.search.beam)
            rate = decode_rate(10_000, replayed, step)
            found.append({"stage": stage.name, "sentences_per_second": rate, "hours": rows / rate / 3600})
    return found


KINDS = {"id": pa.int64(), "target_ids": pa.list_(pa.int32())}


def bytes_of(source: Path, target: Path, *, pieces: int) -> dict[str, float]:
    """Bytes of a row of real text in each kind of file. References stand for the outputs of a teacher."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "gold"
        held_out = {"source": str(source), "target": str(target)}
        vocabulary = {"size": pieces, "type": "bpe"}
        config = {"train": held_out, "valid": held_out, "test": held_out, "vocabulary": vocabulary}
        prepare.run(PrepareConfig.model_validate(config), out)
        gold = Corpus.open(out / "train", "corpus")
        table = pa.concat_tables(gold.tables())
        rows = table.num_rows
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        found = {
            "rows": float(rows),
            "source_tokens": _mean(columns["source_ids"]),
            "target_tokens": _mean(columns["target_ids"]),
            "text_bytes": sum(len(text.encode()) for side in ("source", "target") for text in columns[side]) / rows,
            "gold": sum(path.stat().st_size for path in map(Path, gold.paths)) / rows,
        }
        made = {
            "distilled": _distilled(table),
            "kbest, 1": _lists(columns, 1),
            "kbest, 5": _lists(columns, 5),
            "soft targets, top 16": _soft(columns, 16, pieces),
        }
        for name, value in made.items():
            parts = [write_shard(Path(folder), 0, value.slice(start, 10_000)) for start in range(0, rows, 10_000)]
            found[name] = sum(part.bytes for part in parts) / rows
    return found


def _mean(lists: Sequence[Sequence[int]]) -> float:
    return sum(map(len, lists)) / len(lists)


def _distilled(table: pa.Table) -> pa.Table:
    for name, value in (("score", pa.scalar(-0.5, pa.float32())), ("rule", "seqkd"), ("origin", "teacher")):
        table = table.append_column(name, pa.repeat(value, table.num_rows))
    return table


def _lists(columns: dict[str, list[Any]], nbest: int) -> pa.Table:
    """References as best hypotheses, and further ones that differ from them in one word, as most of a teacher's do."""
    rng = random.Random(1)
    words = sorted({word for text in columns["target"] for word in text.split()})
    pieces = max(max(ids, default=0) for ids in columns["target_ids"])
    hypotheses = []
    for ids, text in zip(columns["target_ids"], columns["target"], strict=True):
        made = [(ids, text)]
        for _ in range(nbest - 1):
            changed, parts = list(ids), text.split()
            changed[rng.randrange(len(ids))] = rng.randint(4, pieces)
            parts[rng.randrange(len(parts))] = rng.choice(words)
            made.append((changed, " ".join(parts)))
        scores = [(-rng.random(), -20 * rng.random()) for _ in made]
        hypotheses.append(
            [
                {"ids": one, "text": other, "score": score, "logprob": logprob, "ended": "eos"}
                for (one, other), (score, logprob) in zip(made, scores, strict=True)
            ]
        )
    kept = {name: columns[name] for name in ("id", "source_ids")}
    return pa.table(kept | {"hypotheses": hypotheses})


def _soft(columns: dict[str, list[Any]], count: int, pieces: int) -> pa.Table:
    """Random pieces and probabilities, which compress less than a teacher's: an upper bound."""
    rng = np.random.default_rng(1)
    rows = []
    for ids in columns["target_ids"]:
        length = len(ids) + 1
        drawn = np.concatenate([rng.choice(pieces, count, replace=False) for _ in range(length)])
        logprobs = np.log(rng.dirichlet(np.ones(count + 1), length))
        sizes = np.full(length, count)
        rows.append(SoftRow(ids=drawn, logprobs=logprobs[:, :-1].ravel(), sizes=sizes, tail=logprobs[:, -1]))
    ids, targets = (pa.chunked_array([columns[name]], kind) for name, kind in KINDS.items())
    return soft_table(ids, targets, rows, pieces=pieces, samples=None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what is asked for as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--pipeline", type=Path, help="GPU hours of its stages")
    parser.add_argument("--rows", type=int, default=4_500_000)
    parser.add_argument("--share", type=float, default=0.28, help="of the matrix unit's rate, in training")
    parser.add_argument("--step", type=float, nargs=2, default=(0.3, 0.3), metavar=("MS", "US"))
    parser.add_argument("--batch-tokens", type=int, nargs="*", default=[], help="replay the search with these")
    parser.add_argument("--text", type=Path, nargs=2, help="source and target: bytes of a row")
    parser.add_argument("--pieces", type=int, default=16_000)
    asked = parser.parse_args(arguments)
    result: dict[str, Any] = {}
    step = (asked.step[0], asked.step[1])
    if asked.batch_tokens:
        replayed = {tokens: replay(10_000, tokens, beam=TEACHERS_BEAM) for tokens in asked.batch_tokens}
        result["replay"] = {
            tokens: {**found, "sentences_per_second": decode_rate(10_000, found, step)}
            for tokens, found in replayed.items()
        }
    if asked.pipeline is not None:
        result["stages"] = hours(asked.pipeline, asked.rows, asked.share, step)
    if asked.text is not None:
        result["bytes_a_row"] = bytes_of(asked.text[0], asked.text[1], pieces=asked.pieces)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
