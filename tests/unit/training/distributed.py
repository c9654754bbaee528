"""What `test_distributed` runs on one process and on two: `python -m tests.unit.training.distributed OUT`."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from seqkd.models.registry import build
from seqkd.objectives.base import TeacherForced
from seqkd.objectives.cmlm import CmlmLoss
from seqkd.objectives.ctc import CtcLoss
from seqkd.objectives.dag import DagLoss
from seqkd.objectives.nat import NatLoss
from seqkd.objectives.nll import LabelSmoothedNll
from seqkd.objectives.teacher import Teacher
from seqkd.objectives.terms import Term
from seqkd.objectives.word_kd import WordKd
from seqkd.training import loop
from seqkd.training.optim import OptimSettings
from seqkd.training.runtime import make_fabric
from seqkd.training.validation import held_out_nll
from tests.unit.training.support import VOCAB, Recorder, TableData, copy_rows, loss_of, plain_descent

SIZES = {"dim": 16, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.1, "max_positions": 16}
HEADS = {**SIZES, "heads": 2, "ffn_dim": 32}
GLANCING = (0.5, 0.3)
torch.manual_seed(5)  # every process has the same teacher
LIVE = cast(TeacherForced, build("lstm", {**SIZES, "dim": 8}, source_vocab=VOCAB, target_vocab=VOCAB).eval())
KINDS: dict[str, tuple[str, dict[str, Any], Term]] = {
    "transformer": ("transformer", HEADS, LabelSmoothedNll(smoothing=0.1)),
    "word_kd": ("transformer", HEADS, WordKd(temperature=2.0, top=5)),
    "lstm": ("lstm", SIZES, LabelSmoothedNll(smoothing=0.1)),
    "sru": ("sru", HEADS, LabelSmoothedNll(smoothing=0.1)),
    "nat": ("nat", HEADS, NatLoss(smoothing=0.1, length_weight=0.1)),
    "nat, fertility": ("nat", {**HEADS, "copy_from": "fertility"}, NatLoss(smoothing=0.1, length_weight=0.1)),
    "nat, glancing": ("nat", HEADS, NatLoss(smoothing=0.1, length_weight=0.1, glancing=GLANCING)),
    "cmlm": ("cmlm", HEADS, CmlmLoss(smoothing=0.1, length_weight=0.1)),
    "ctc, glancing": ("ctc", HEADS, CtcLoss(smoothing=0.1, glancing=GLANCING)),
    "dag, glancing": ("dag", HEADS, DagLoss(glancing=GLANCING)),
}
# Rows, and tokens of a batch. With three rows, each a batch of its own, one of two processes has nothing to do in the
# second update of each epoch.
DATA = {"many rows": (64, 40), "three rows": (3, 1)}


@dataclass(frozen=True, slots=True)
class Run:
    """What came out.

    Attributes:
        moved: By name, how far each weight has come.
        losses: At each validation, those of training and validation.
    """

    moved: dict[str, Tensor]
    losses: list[list[float]]


def train(fabric: Any, kind: str, rows: int, batch_tokens: int) -> Run:
    """Six updates of two batches each, over all processes."""
    arch, settings, term = KINDS[kind]
    loss = loss_of(term, Teacher([LIVE]))
    torch.manual_seed(5)
    model = build(arch, settings, source_vocab=VOCAB, target_vocab=VOCAB)
    first = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    rank, world = fabric.global_rank, fabric.world_size
    held_out = TableData(copy_rows(5, seed=9), batch_tokens=12, rank=rank, world=world)
    with tempfile.TemporaryDirectory() as folder:
        result = loop.fit(
            fabric=fabric,
            model=model,
            loss=loss,
            data=TableData(copy_rows(rows), batch_tokens=batch_tokens, rank=rank, world=world),
            validate=lambda current: (held_out_nll(fabric, current, loss, held_out), None),
            settings=loop.LoopSettings(
                max_updates=6,
                accumulate=2 // world,
                clip_norm=0.0,
                validate_every=2,
                optim=OptimSettings(learning_rate=0.05, warmup_updates=1, max_updates=6),
            ),
            precision="float32",
            folder=Path(fabric.broadcast(folder)),
            observer=Recorder(),
        )
        fabric.barrier()
    moved = {name: weight.detach() - first[name] for name, weight in model.named_parameters()}
    return Run(moved, [[line.train_loss, line.valid_nll] for line in result.history])


def main(out: Path) -> None:
    """Train all kinds on this process and its peers; the first one writes what came out."""
    loop.build_optimizer = plain_descent  # type: ignore[attr-defined]
    fabric = make_fabric(torch.device("cpu"), "float32")
    runs = {(kind, name): train(fabric, kind, *sizes) for kind in KINDS for name, sizes in DATA.items()}
    if fabric.is_global_zero:
        torch.save({key: (run.moved, run.losses) for key, run in runs.items()}, out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
