"""Checks of the inputs of `select`, before anything is written."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from seqkd.config.stages import SelectConfig
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.row_ids import RANK_STEP
from seqkd.errors import CorpusError, InputError
from seqkd.stages.distill.counting import UNSCORED
from seqkd.stages.select.shards import sentence_tokenizer, tag_id


def check_inputs(kbest: Corpus, gold: Corpus, config: SelectConfig) -> None:
    """Check that the k-best lists belong to the corpus, and that both have all that the settings read.

    Raises:
        CorpusError: They do not.
        InputError: The script does not exist, or the tokenizer is not installed.
        ModelError: A model of the scorer does not fit.
    """
    prepared = read_manifest(config.prepared)
    pseudo = is_source_text(gold)
    if gold.manifest.extra.get("monolingual") and not pseudo and "references" in config.record.reads:
        raise CorpusError(
            f"is monolingual text without references, which rule {config.rule!r} reads",
            where=str(gold.path),
            expected="a corpus with both sides",
            hint="choose a rule that reads no references, such as seqkd, with reverse = true",
        )
    if (bool(gold.manifest.extra.get("monolingual")) and not pseudo) != config.reverse:
        raise CorpusError(
            "is not monolingual text of the target language"
            if config.reverse
            else "is monolingual text, so hypotheses would be its targets",
            where=str(gold.path),
            expected="output of `seqkd prepare --monolingual`" if config.reverse else "a corpus with both sides",
            hint="set reverse = true to make back-translations, which are pairs of hypotheses and monolingual text",
        )
    if pseudo and (config.reads_references or config.rejected == "gold"):
        raise CorpusError(
            "is monolingual text, which has no references",
            where=str(gold.path),
            expected='a rule and filters that read no references, and rejected = "drop" or "next"',
        )
    # Of the language that hypotheses are in.
    known = prepared.extra.get("source_vocabulary", "") if config.reverse else prepared.vocabulary
    tag_id(config)
    for name, corpus in (("gold corpus", gold), ("k-best lists", kbest)):
        if corpus.manifest.vocabulary != known:
            raise CorpusError(
                f"the {name} have another vocabulary than {config.prepared}"
                if name.endswith("s")
                else f"the {name} has another vocabulary than {config.prepared}",
                where=str(corpus.path),
                expected=f"vocabulary {known[:12]}..., found {corpus.manifest.vocabulary[:12]}...",
                hint="decode this corpus with a teacher of this vocabulary",
            )
    if len(kbest.shards) != len(gold.shards):
        raise CorpusError(
            f"{len(kbest.shards)} shards of k-best lists for {len(gold.shards)} shards of {gold.path}",
            where=str(kbest.path),
            expected="k-best lists of this corpus, with the same shards",
            hint="distill this corpus again, or select from the corpus that was decoded",
        )
    reads = [f"rule {config.rule!r}" if key == "rule" else key for key in config.reads_scores]
    if reads and kbest.manifest.counts.get(UNSCORED):
        raise CorpusError(
            f"{kbest.manifest.counts[UNSCORED]:,} {UNSCORED}, which {' and '.join(reads)} would read",
            where=str(kbest.path),
            expected="k-best lists of a source that gives scores and log-probabilities",
            hint="choose a rule that does not read scores, or distill with models",
        )
    sentence_tokenizer(config, gold)
    if config.filters.reads("language") and not gold.manifest.extra.get("target_language"):
        raise CorpusError(
            "its target language is not known, which filters.language would read",
            where=str(gold.path),
            expected="a corpus of a data set with `target_language`",
            hint="give the data set `target_language`, or leave the filter out",
        )
    if config.judge is not None:
        from seqkd.search.loading import check_left_to_right  # torch is not loaded for rules that need no model

        for judge in config.judge.models.values():
            check_left_to_right(judge)
    script = config.filters["script"]
    if script is not None:
        try:
            pc.count_substring_regex(pa.array([""]), rf"\p{{{script}}}")
        except pa.ArrowInvalid:
            raise InputError(
                f"no script is named {script!r}",
                where="filters.script",
                expected="a Unicode script, e.g. Latin, Cyrillic, Greek, Arabic, Han",
            ) from None


def is_source_text(gold: Corpus) -> bool:
    """Whether a corpus is monolingual text of the source language, whose targets hypotheses become."""
    known = gold.manifest.extra
    return bool(known.get("monolingual")) and known.get("side") == "source"


def check_ids(gold: Corpus) -> None:
    """Check that the ids leave room for the ids of further hypotheses.

    Raises:
        CorpusError: An id is too large.
    """
    for table in gold.tables(["id"]):
        ids = table.column("id").to_numpy()
        if len(ids) and not 0 <= ids.min() <= ids.max() < RANK_STEP:
            raise CorpusError(
                f"has ids from {ids.min()} to {ids.max()}",
                where=str(gold.path),
                expected=f"ids from 0 to {RANK_STEP - 1:,}: larger ids are of further hypotheses of a row",
                hint="select from the corpus that `seqkd prepare` wrote, not from one with several targets of a row",
            )
