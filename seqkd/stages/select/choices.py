"""How often a rule that weighs scores against references agrees with the scores, and with the references, alone."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from seqkd.config.stages import SelectConfig
from seqkd.corpus.reader import Corpus
from seqkd.selection.lists import Integers, Lists, one_array
from seqkd.selection.rules import PIECES, Means, score_by_seqinter
from seqkd.selection.sentence_bleu import SentenceBleu
from seqkd.stages.select.shards import sentence_tokenizer

BEST, ORACLE, SAME = "the best hypothesis", "the closest to the reference", "equal to their rival"


def weighs_gains(config: SelectConfig) -> bool:
    """Whether the rule weighs the scores of the search against sentence BLEU."""
    return {"scores", "bleu", "references"} <= config.record.reads and config.record.values is not None


def compare_choices(
    config: SelectConfig, gold: Corpus, kbest: Corpus, index: int, distilled: pa.Table
) -> dict[str, int]:
    """Count the rows of a distilled shard by what their target is.

    Args:
        config: The settings of the stage.
        gold: The corpus that was decoded.
        kbest: The k-best lists.
        index: The number of the shard.
        distilled: The distilled rows of the shard.

    Returns:
        The rows whose target is the best hypothesis of the search, those whose target has the highest sentence BLEU of
        its list, and for a rule with rivals those whose target is also the rival.
    """
    ids = pa.array(distilled.column("id").to_numpy())
    rows, found = (_take_rows(corpus.read_shard(index), ids) for corpus in (gold, kbest))
    lists = Lists.of_tables(rows, found)
    means = Means(
        bleu=SentenceBleu(sentence_tokenizer(config, gold), config.smoothing), pieces=config.tokenizer == PIECES
    )
    values = score_by_seqinter(lists, means)
    best = np.flatnonzero(lists.counts)
    oracle = lists.sort_by(values)[lists.firsts[best]]
    targets = one_array(distilled.column("target_ids"))
    counts = {
        BEST: _count_equal(targets.take(pa.array(best)), lists.token_ids.take(pa.array(lists.firsts[best]))),
        ORACLE: _count_equal(targets.take(pa.array(best)), lists.token_ids.take(pa.array(oracle))),
    }
    if config.record.rivals is not None:
        counts[SAME] = _count_equal(targets, one_array(distilled.column("rival_ids")))
    return counts


def _take_rows(table: pa.Table, ids: pa.Array) -> pa.Table:
    """Return the rows with these ids, in their order."""
    own, wanted = table.column("id").to_numpy(), ids.to_numpy()
    order: Integers = np.argsort(own)
    return table.take(pa.array(order[np.searchsorted(own, wanted, sorter=order)]))


def _count_equal(ours: pa.Array, theirs: pa.Array) -> int:
    return sum(one == other for one, other in zip(ours.to_pylist(), theirs.to_pylist(), strict=True))
