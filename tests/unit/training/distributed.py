"""What `test_distributed` runs on one process and on two: `python -m tests.unit.training.distributed OUT`."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from seqkd.models.registry import build
from seqkd.objectives.base import TeacherForced
from seqkd.objectives.cmlm import CmlmLoss
from seqkd.objectives.ctc import CtcLoss
from seqkd.objectives.dag import DagLoss
from seqkd.objectives.loss import Loss, WeightedTerm
from seqkd.objectives.margin import Margin
from seqkd.objectives.nat import NatLoss
from seqkd.objectives.nll import LabelSmoothedNll
from seqkd.objectives.teacher import Teacher
from seqkd.objectives.terms import Term
from seqkd.objectives.word_kd import WordKd
from seqkd.training.loop import LoopSettings, Measured, fit
from seqkd.training.optim import OptimSettings
from seqkd.training.runtime import group_left, make_fabric
from seqkd.training.validation import held_out_nll
from tests.unit.training.support import VOCAB, Recorder, TableData, add_rivals, copy_rows, plain_descent
from tests.unit.training.terms import Projected, Swaps

SIZES = {"dim": 16, "encoder_layers": 1, "decoder_layers": 1, "dropout": 0.1, "max_positions": 16}
HEADS = {**SIZES, "heads": 2, "ffn_dim": 32}
GLANCING = (0.5, 0.3)
torch.manual_seed(5)  # every process has the same teacher
LIVE = cast(TeacherForced, build("lstm", {**SIZES, "dim": 8}, source_vocab=VOCAB, target_vocab=VOCAB).eval())
LEARNED, MARGIN = "learned", "margin"
KINDS: dict[str, tuple[str, dict[str, Any], Term]] = {
    "transformer": ("transformer", HEADS, LabelSmoothedNll(smoothing=0.1)),
    "word_kd": ("transformer", HEADS, WordKd(temperature=2.0, top=5)),
    MARGIN: ("transformer", HEADS, Margin(cost=2.0)),
    "lstm": ("lstm", SIZES, LabelSmoothedNll(smoothing=0.1)),
    "sru": ("sru", HEADS, LabelSmoothedNll(smoothing=0.1)),
    "nat": ("nat", HEADS, NatLoss(smoothing=0.1, length_weight=0.1)),
    "nat, fertility": ("nat", {**HEADS, "copy_from": "fertility"}, NatLoss(smoothing=0.1, length_weight=0.1)),
    "nat, glancing": ("nat", HEADS, NatLoss(smoothing=0.1, length_weight=0.1, glancing=GLANCING)),
    "cmlm": ("cmlm", HEADS, CmlmLoss(smoothing=0.1, length_weight=0.1)),
    "ctc, glancing": ("ctc", HEADS, CtcLoss(smoothing=0.1, glancing=GLANCING)),
    "dag, glancing": ("dag", HEADS, DagLoss(glancing=GLANCING)),
    LEARNED: ("transformer", HEADS, LabelSmoothedNll(smoothing=0.1)),
}
# Rows, and tokens of a batch. With three rows, each a batch of its own, one of two processes has nothing to do in the
# second update of each epoch.
DATA = {"many rows": (64, 40), "three rows": (3, 1)}


@dataclass(frozen=True, slots=True)
class Run:
    """What came out.

    Attributes:
        moved: By name, how far each weight of the model and of the objective's terms has come.
        losses: At each validation, those of training and validation.
    """

    moved: dict[str, Tensor]
    losses: list[list[float]]


def objective_of(kind: str, rank: int) -> Loss:
    """The objective of a kind; what a term learns begins differently on each process, and must not stay so."""
    term = WeightedTerm(term=KINDS[kind][2])
    if kind == MARGIN:
        return Loss([WeightedTerm(term=LabelSmoothedNll(smoothing=0.1), name="nll"), term])
    if kind != LEARNED:
        return Loss([term], teacher=Teacher([LIVE]))
    torch.manual_seed(5 + rank)
    return Loss([term, WeightedTerm(term=Projected(16, 8), name="states", weight=0.5)], teacher=Teacher([LIVE]))


class KilledError(Exception):
    """Ends a run on all processes at once, and nothing is saved."""


def train(
    fabric: Any,
    kind: str,
    rows: int,
    batch_tokens: int,
    *,
    folder: Path | None = None,
    hooked: bool = False,
    kill_at: int = 0,
) -> Run:
    """Six updates of two batches each, over all processes; `kill_at` is the validation that is not survived."""
    arch, settings, _ = KINDS[kind]
    loss = objective_of(kind, fabric.global_rank)
    torch.manual_seed(5)
    model = build(arch, settings, source_vocab=VOCAB, target_vocab=VOCAB)
    both = nn.ModuleDict({"model": model, "loss": loss})
    first = {name: weight.detach().clone() for name, weight in objective_of(kind, 0).named_parameters(prefix="loss")}
    first |= {name: weight.detach().clone() for name, weight in model.named_parameters(prefix="model")}
    validations = 0

    def validate(current: nn.Module) -> Measured:
        nonlocal validations
        validations += 1
        if validations == kill_at:
            raise KilledError
        return held_out_nll(fabric, current, loss, held_out), {}

    rank, world = fabric.global_rank, fabric.world_size
    held_out = TableData(copy_rows(5, seed=9), batch_tokens=12, rank=rank, world=world)
    with tempfile.TemporaryDirectory() as own:
        result = fit(
            fabric=fabric,
            model=model,
            loss=loss,
            data=TableData(
                add_rivals(copy_rows(rows)) if kind == MARGIN else copy_rows(rows),
                batch_tokens=batch_tokens,
                rank=rank,
                world=world,
            ),
            validate=validate,
            settings=LoopSettings(
                max_updates=6,
                accumulate=2 // world,
                clip_norm=0.0,
                validate_every=2,
                optim=OptimSettings(learning_rate=0.05, warmup_updates=1, max_updates=6),
            ),
            precision="float32",
            folder=Path(fabric.broadcast(own)) if folder is None else folder,
            observer=Recorder(),
            hooks=[Swaps(model, 3), Swaps(model, 2)] if hooked else [],
            make_optimizer=plain_descent,
        )
        fabric.barrier()
    moved = {name: weight.detach() - first[name] for name, weight in both.named_parameters()}
    return Run(moved, [[line.train_loss, line.valid_nll] for line in result.history])


def resumed(fabric: Any) -> tuple[Run, Run, bool]:
    """A term that learns, and hooks: a whole run, a run that is killed and resumed, and whether all ranks agree."""
    with tempfile.TemporaryDirectory() as own:
        folder = Path(fabric.broadcast(own))
        for name in ("whole", "killed"):
            (folder / name).mkdir(exist_ok=True)
        whole = train(fabric, LEARNED, 64, 40, folder=folder / "whole", hooked=True)
        try:
            train(fabric, LEARNED, 64, 40, folder=folder / "killed", hooked=True, kill_at=2)
        except KilledError:
            fabric.barrier()
        again = train(fabric, LEARNED, 64, 40, folder=folder / "killed", hooked=True)
    flat = torch.cat([way.flatten() for way in again.moved.values()])
    everyone = fabric.all_gather(flat).view(-1, len(flat))
    return whole, again, bool((everyone == flat).all())


def main(out: Path) -> None:
    """Train all kinds on this process and its peers; the first one writes what came out."""
    fabric = make_fabric(torch.device("cpu"), "float32")
    runs = {(kind, name): train(fabric, kind, *sizes) for kind in KINDS for name, sizes in DATA.items()}
    whole, again, agree = resumed(fabric)
    if fabric.is_global_zero:
        found: dict[Any, Any] = {key: (run.moved, run.losses) for key, run in runs.items()}
        found["resumed"] = whole.moved, again.moved, agree
        torch.save(found, out)


if __name__ == "__main__":
    with group_left():
        main(Path(sys.argv[1]))
