"""The task of translation: batches of pairs for teacher forcing, and metrics of greedy outputs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn

from seqkd.metrics.registry import Outputs
from seqkd.models.checkpoint import LoadedModel
from seqkd.objectives.base import Batch, Rivals, RowWeights
from seqkd.search.quick import KeptDecoder, quick_decoder
from seqkd.training.data import RIVAL_IDS, RIVAL_MARGIN, WEIGHT, SpecialIds
from seqkd.training.task import HeldOut, Measurement

DECODE_TOKENS = 4000  # source tokens that are decoded together


def collate(table: pa.Table, special: SpecialIds) -> Batch:
    """Pad the rows of a corpus table.

    Args:
        table: A table with the columns id, source_ids and target_ids, weight if there is one, and rival_ids and
            rival_margin if they are read. An empty table gives one sentence pair whose target is all padding and counts
            nothing, with which ranks without batches take part.
        special: See `SpecialIds`.
    """
    rows = table.num_rows
    weighted, paired = WEIGHT in table.column_names, RIVAL_IDS in table.column_names
    if rows == 0:
        nothing = (torch.tensor([[special.start]]), torch.tensor([[special.pad]]), torch.empty(0, dtype=torch.long))
        return Batch(
            np.empty(0, dtype=np.int64),
            torch.tensor([[special.eos]]),
            *nothing,
            tokens=0,
            weights=RowWeights(torch.zeros(1), 0.0) if weighted else None,
            rivals=Rivals(*nothing, torch.zeros(1), torch.zeros(1), False) if paired else None,
        )
    sources, source_lengths = _flat(table.column("source_ids"))
    targets, target_lengths = _flat(table.column("target_ids"))
    target = _pad_targets(targets, target_lengths, special)
    batch = Batch(
        table.column("id").to_numpy(),
        torch.from_numpy(_pad(sources, source_lengths, special)),
        *target,
        tokens=len(target[2]),
        rivals=_collate_rivals(table, special) if paired else None,
    )
    if not weighted:
        return batch
    weights = np.array(table.column(WEIGHT).to_numpy(), dtype=np.float32)
    total = float((weights * (target_lengths + 1)).sum(dtype=np.float64))
    return batch._replace(weights=RowWeights(torch.from_numpy(weights), total))


def _collate_rivals(table: pa.Table, special: SpecialIds) -> Rivals:
    ids, lengths = _flat(table.column(RIVAL_IDS))
    pairs = zip(table.column(RIVAL_IDS).to_pylist(), table.column("target_ids").to_pylist(), strict=True)
    differ = [rival != target for rival, target in pairs]
    margins = np.array(table.column(RIVAL_MARGIN).to_numpy(), dtype=np.float32)
    return Rivals(
        *_pad_targets(ids, lengths, special),
        margins=torch.from_numpy(margins),
        differ=torch.tensor(differ, dtype=torch.float32),
        any_differ=any(differ),
    )


def _pad_targets(
    ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64], special: SpecialIds
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `target_in`, `target_out` and `kept` of targets; see `Batch`."""
    target_out = _pad(ids, lengths, special)
    target_in = np.empty_like(target_out)
    target_in[:, 0] = special.start
    target_in[:, 1:] = target_out[:, :-1]
    places = np.arange(target_out.shape[1])
    target_in[places > lengths[:, None]] = special.pad  # where end of sentence moved to
    kept = np.flatnonzero(places <= lengths[:, None])
    return torch.from_numpy(target_in), torch.from_numpy(target_out), torch.from_numpy(kept)


def _flat(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Return all ids of a column in one array, and the number of ids of each row."""
    lists = pa.concat_arrays(column.chunks)
    return lists.flatten().to_numpy(zero_copy_only=False), np.diff(lists.offsets.to_numpy()).astype(np.int64)


def _pad(ids: npt.NDArray[np.int32], lengths: npt.NDArray[np.int64], special: SpecialIds) -> npt.NDArray[np.int64]:
    """Pad rows to `[rows, longest + 1]` int64, with end of sentence after each row."""
    places = np.arange(int(lengths.max()) + 1)
    padded = np.full((len(lengths), len(places)), special.pad, dtype=np.int64)
    padded[places < lengths[:, None]] = ids
    padded[np.arange(len(lengths)), lengths] = special.eos
    return padded


def measure_greedy(held_out: HeldOut) -> Measurement:
    """Prepare the measurement of metrics of a model's greedy outputs on the validation text."""
    data, vocabularies = held_out.data, held_out.vocabularies
    table = data.corpus.take(data.positions, ["id", "source", "source_ids", "target"])
    sources = list(zip(table.column("id").to_pylist(), table.column("source_ids").to_pylist(), strict=True))
    text = Outputs(
        hypotheses=(),
        references=table.column("target").to_pylist(),
        sources=table.column("source").to_pylist(),
        tokenizer=held_out.tokenizer,
        blanks=held_out.blanks,
    )

    @cache
    def kept(model: nn.Module) -> KeptDecoder:
        return KeptDecoder(loaded(model))

    def loaded(model: nn.Module) -> LoadedModel:
        return LoadedModel(model=model, arch=held_out.arch, settings={}, vocabularies=vocabularies, digest="")

    def score(model: nn.Module) -> dict[str, float]:
        on_gpu = next(model.parameters()).is_cuda
        decoder = kept(model).with_weights_of(model) if on_gpu else quick_decoder(loaded(model))
        found = {row: lists[0].ids for row, lists in decoder.decode(sources, batch_tokens=DECODE_TOKENS)}
        outputs = replace(text, hypotheses=vocabularies.target.decode([found[row] for row, _ in sources]))
        return {metric.name: metric.score(outputs).value for metric in held_out.metrics}

    return score
