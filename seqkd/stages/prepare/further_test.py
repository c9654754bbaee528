"""`seqkd prepare --test`: a further test set, encoded with the vocabulary of a data set.

It is a stage of its own, so that a further test set makes neither the data set nor any model again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqkd.config.stages import BitextConfig, FurtherTestConfig, FurtherText
from seqkd.config.written import find_neutral
from seqkd.corpus.manifest import Manifest, Provenance, StageOutput
from seqkd.corpus.unknowns import UNKNOWN_ROWS
from seqkd.errors import SeqkdError
from seqkd.progress import say
from seqkd.stages.prepare.encoding import NORMALIZED, corpus_manifest, encode_shards, tell_all
from seqkd.stages.prepare.prepare import read_prepared
from seqkd.stages.prepare.references import by_side, check_text, copy_accepted, read_text
from seqkd.stopping import StopRequest
from seqkd.text.vocabularies import Vocabularies

ACCEPTED = "accepted.jsonl"  # lies in the folder


def run(config: FurtherTestConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto") -> None:  # noqa: ARG001
    """Encode a test set. The rows of the corpus are those of the files; the first reference is its `target`.

    Args:
        config: The stage's settings.
        out: The output folder, a corpus.
        overwrite: Start anew whatever is there.
        device: Not used: text needs none.

    Raises:
        CorpusError: `config.prepared` is no output of `prepare`.
        InputError: Text cannot be used, or the set of sacrebleu is not on this machine.
        ConflictError: `out` was made with other settings or text.
        WorkError: The files cannot be written, or the run was stopped.
    """
    out = Path(out)
    prepared = read_prepared(config.prepared)
    vocabularies = Vocabularies.load(config.prepared)
    bitext = config.text.find_files()
    problems: list[SeqkdError] = []
    facts, accepted = check_text(bitext, problems)
    tell_all(problems)
    assert facts is not None  # or there would be a problem
    languages = {
        side: prepared.extra[side] for side in ("source_language", "target_language") if side in prepared.extra
    }
    inputs = by_side(facts.digests)
    inputs |= {"vocabulary": vocabularies.target.digest, "source_vocabulary": vocabularies.source.digest}
    made_by = Provenance(
        stage="test",
        settings=settings(config) | languages,
        inputs=inputs | ({"accepted": accepted} if accepted else {}),
        neutral=find_neutral(config),
    )
    with StageOutput.open(out, "corpus", made_by, overwrite=overwrite) as output:
        if output.complete:
            say(f"prepare: {out} is up to date")
            return
        if bitext.accepted is not None:
            copy_accepted(bitext.accepted, out / ACCEPTED)
        with StopRequest() as stop:
            shards = encode_shards(
                read_text(bitext), output, facts.rows, config.shard_rows, vocabularies, as_given=True, stop=stop
            )
        manifest = corpus_manifest(output, shards, vocabularies, {}, as_given=True)
        manifest.extra.update(languages | _described(config.text, bitext))
        output.commit(manifest)
    say(f"prepare: {_summary(manifest, bitext)} in {out}")


def settings(config: FurtherTestConfig) -> dict[str, Any]:
    """The settings that the output depends on, as the stage file gives them."""
    return config.model_dump(mode="json", include={"shard_rows"})


def _described(text: FurtherText, bitext: BitextConfig) -> dict[str, Any]:
    """Facts about the text for `seqkd inspect`."""
    named = {} if text.sacrebleu is None else {"sacrebleu": f"{text.sacrebleu} {text.langpair}"}
    return {"references": max(len(bitext.references), 1), **named}


def _summary(manifest: Manifest, bitext: BitextConfig) -> str:
    number = len(bitext.references)
    references = f" with {number} references each" if number > 1 else ""
    unknown = [f"{rows:,} {side}s" for side, rows in manifest.extra.get(UNKNOWN_ROWS, {}).items()]
    notes = f"; {' and '.join(unknown)} hold pieces that the vocabulary does not know" if unknown else ""
    if NORMALIZED in manifest.extra:
        notes += f"; normalisation changes {manifest.extra[NORMALIZED]:,} targets, which metrics compare as given"
    return f"{manifest.rows:,} rows for test{references}{notes}"
