"""`seqkd prepare`: gold corpora and a vocabulary from text files.

The training text is read three times: to judge its rows, to sample text for the vocabulary, and to encode the rows that
are kept. At most one shard is held in memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from seqkd.config.stages import BitextConfig, PrepareConfig
from seqkd.config.written import find_neutral
from seqkd.corpus.manifest import PARTIAL, Manifest, Provenance, StageOutput, read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.unknowns import UNKNOWN_ROWS
from seqkd.corpus.vocabularies import write_vocabularies
from seqkd.errors import CorpusError, InputError, SeqkdError
from seqkd.progress import say
from seqkd.stages.prepare.encoding import (
    LENGTHS,
    NORMALIZED,
    corpus_manifest,
    describe_units,
    encode_shards,
    find_units,
    list_rejected,
    raise_problems,
    screen_rows,
)
from seqkd.stages.prepare.learning import learn_vocabularies
from seqkd.stages.prepare.references import check_text, copy_accepted, name_digests, read_text
from seqkd.stages.prepare.shared_sources import SourceRows, check_shared
from seqkd.stages.prepare.tags import check_tag, describe_tag
from seqkd.stages.prepare.targets import (
    TARGETS,
    check_pairs,
    count_targets,
    find_source_rows,
    read_pairs,
    split_targets,
)
from seqkd.stages.rejected import REJECTED
from seqkd.stopping import StopRequest
from seqkd.text.cleaning import Cleaner
from seqkd.text.identification import LanguageCheck, identifier_version
from seqkd.text.normalize import Normalizer
from seqkd.text.reading import BitextFacts, RawPair
from seqkd.text.screening import count_verdicts, read_kept
from seqkd.text.vocabularies import Vocabularies, list_files

ACCEPTED = "test.accepted.jsonl"

SHARED = "shared_sources"  # in a fingerprint: the training text of the data set whose sources are shared

_WORK = "work"  # the folder of temporary files of the run


def run(config: PrepareConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto") -> None:  # noqa: ARG001
    """Make `out`/train, /valid and /test, the vocabulary, and the list of the rows left out.

    Args:
        config: The settings of the stage.
        out: The output folder.
        overwrite: Whether to start anew if the folder exists.
        device: Not used.

    Raises:
        InputError: The text cannot be used, no row is left after cleaning, the size of the vocabulary does not fit, or
            the source side is not that of the data set whose sources it is said to share.
        ModelError: The vocabulary that is brought along has no piece for the tag.
        ConflictError: `out` was made with other settings or text.
        WorkError: The files cannot be written, or the run was stopped.
    """
    out = Path(out)
    facts, accepted_digest = _check_inputs(config)
    made_by = _make_provenance(config, facts, accepted_digest)
    with StageOutput.open(out, "prepared", made_by, overwrite=overwrite) as output:
        if output.complete:
            say(f"prepare: {out} is up to date")
            return
        try:
            with StopRequest() as stop:
                manifest = _prepare(config, out, facts, made_by, stop)
        except InputError:
            _discard(out)
            raise
        output.commit(manifest)
    say(_summarize(manifest, out))
    for note in _list_notes(config, out):
        say(f"prepare: {note}")


def _check_languages(config: PrepareConfig) -> tuple[LanguageCheck | None, LanguageCheck | None]:
    """Return the checks of the languages of both sides, if they are configured.

    Raises:
        InputError: py3langid is not installed, or does not know a language.
    """

    def check(language: str | None) -> LanguageCheck | None:
        return LanguageCheck(language, "cleaning.language") if config.cleaning.language and language else None

    return check(config.source_language), check(config.target_language)


def _list_languages(config: PrepareConfig) -> dict[str, Any]:
    """Return the languages that are given."""
    return config.model_dump(mode="json", include={"source_language", "target_language"}, exclude_none=True)


def settings(config: PrepareConfig) -> dict[str, Any]:
    """Return the settings that the output depends on, as in the stage file."""
    own = {"cleaning", "shard_rows"} | ({"vocabulary", "seed"} if config.vocabulary_from is None else set())
    values = config.model_dump(mode="json", include=own) | _list_languages(config) | describe_tag(config.tag or "")
    if "vocabulary" in values:
        # Tags were symbols in the first version, whose folders must fit the same pipelines today.
        values["vocabulary"]["symbols"] += values["vocabulary"].pop("tags")
    return values


def _make_provenance(config: PrepareConfig, facts: dict[str, BitextFacts], accepted_digest: str) -> Provenance:
    inputs = {
        f"{part}.{side}": digest for part, fact in facts.items() for side, digest in name_digests(fact.digests).items()
    }
    if config.shares_sources is not None:
        check_shared(config.shares_sources, config.train.source, facts["train"].digests[0])
        inputs[SHARED] = read_manifest(config.shares_sources / "train").digest()
    if accepted_digest:
        inputs["test.accepted"] = accepted_digest
    if config.vocabulary_from is not None:
        given = Vocabularies.load(config.vocabulary_from)
        check_tag(config.tag or "", given)
        inputs |= given.digests()
    return Provenance(
        stage="prepare",
        settings=settings(config),
        inputs=inputs,
        neutral=find_neutral(config),
        unused=() if config.vocabulary_from is None else ("seed",),  # the seed only draws the sample of a vocabulary
        worked=identifier_version() if config.cleaning.language else {},
    )


def read_prepared(folder: Path) -> Manifest:
    """Read the manifest of an output of this stage.

    Raises:
        CorpusError: The folder is not complete, or is not an output of this stage.
    """
    manifest = read_manifest(folder)
    if manifest.kind != "prepared":
        raise CorpusError(f"is of kind {manifest.kind!r}", where=str(folder), expected="output of `seqkd prepare`")
    return manifest


def _prepare(
    config: PrepareConfig, out: Path, facts: dict[str, BitextFacts], made_by: Provenance, stop: StopRequest
) -> Manifest:
    work = out / _WORK
    work.mkdir(exist_ok=True)
    rules, normalizers = config.cleaning, _make_normalizers(config)
    checks = _check_languages(config)
    units = find_units(_training_text(config), normalizers, config.source_language, config.target_language)
    cleaner = Cleaner(
        max_length=rules.max_length,
        max_ratio=rules.max_ratio,
        drop_identical=rules.drop_identical,
        units=units,
        languages=checks,
    )
    verdicts = screen_rows(
        _training_text(config),
        work,
        facts["train"].rows,
        normalizers=normalizers,
        cleaner=cleaner,
        drop_duplicates=rules.drop_duplicates,
        label="prepare: cleaning",
        unit="pairs",
    )
    stop.check("after cleaning")
    rows, counts = count_verdicts(verdicts)
    if not rows:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in counts.items() if number)
        raise InputError(
            f"no training pair is left after cleaning ({reasons})",
            where=str(config.train.source),
            hint="check the text and the settings of [cleaning]",
        )
    vocabularies = _make_vocabularies(config, out, verdicts)
    stop.check("after the vocabulary")
    check_tag(config.tag or "", vocabularies)
    shared = None if config.shares_sources is None else SourceRows(Corpus.open(config.shares_sources / "train"))
    languages = _list_languages(config) | describe_tag(config.tag or "")
    targets = count_targets(config.train)
    manifests = {}
    for part in ("train", "valid", "test"):
        bitext: BitextConfig = getattr(config, part)
        digests = name_digests(facts[part].digests)
        digests |= {"vocabulary": vocabularies.target.digest, "source_vocabulary": vocabularies.source.digest}
        # Valid and test are not cleaned, so they do not depend on the settings of cleaning.
        own = made_by.settings if part == "train" else {"shard_rows": config.shard_rows, **languages}
        texts: Iterator[tuple[str, ...]]
        texts = read_kept(_training_text(config), verdicts) if part == "train" else read_text(bitext)
        texts = split_targets(texts) if part == "valid" else texts
        part_made_by = replace(made_by, settings={**own, "part": part}, inputs=digests)
        with StageOutput.open(out / part, "corpus", part_made_by, overwrite=False) as output:
            if not output.complete:
                number = rows if part == "train" else facts[part].rows
                given = part != "train"
                written = encode_shards(
                    texts,
                    output,
                    number,
                    config.shard_rows,
                    vocabularies,
                    source_rows=find_source_rows(verdicts, targets) if part == "train" and targets > 1 else None,
                    as_given=given,
                    shared=None if given else shared,
                    tag=config.tag or "",
                    stop=stop,
                )
                manifest = corpus_manifest(output, written, vocabularies, {} if given else counts, as_given=given)
                manifest.extra.update(languages)
                if part == "train" and targets > 1:
                    manifest.extra[TARGETS] = targets
                output.commit(manifest)
            assert output.manifest is not None
            manifests[part] = output.manifest
    list_rejected(out / REJECTED, verdicts, targets)
    if config.test.accepted:
        copy_accepted(config.test.accepted, out / ACCEPTED)
    shutil.rmtree(work)
    train = manifests["train"]
    return Manifest(
        kind="prepared",
        fingerprint=made_by.fingerprint,
        rows=train.rows,
        source_tokens=train.source_tokens,
        target_tokens=train.target_tokens,
        vocabulary=vocabularies.target.digest,
        counts=counts,
        extra={
            **made_by.extra,
            "source_vocabulary": vocabularies.source.digest,
            "pieces": vocabularies.target.size,
            "source_pieces": vocabularies.source.size,
            "train": train.digest(),
            "valid": manifests["valid"].digest(),
            "test": manifests["test"].digest(),
            "valid_rows": manifests["valid"].rows,
            "test_rows": manifests["test"].rows,
            **({"normalization": form} if (form := vocabularies.target.normalization) != "nmt_nfkc" else {}),
            **languages,
            **describe_units(units),
        },
    )


def _discard(out: Path) -> None:
    """Empty a folder whose settings or text were wrong, so that corrected ones do not cause a conflict."""
    if not (out / "train").exists():
        shutil.rmtree(out / _WORK, ignore_errors=True)
        for name in (*list_files(out), PARTIAL):
            (out / name).unlink(missing_ok=True)


# --- checks before work starts ----------------------------------------------------------------------------------


def _check_inputs(config: PrepareConfig) -> tuple[dict[str, BitextFacts], str]:
    """Check all input files, and report all problems at once.

    Returns:
        Facts by part, and the digest of the accepted translations or "".
    """
    problems: list[SeqkdError] = []
    facts: dict[str, BitextFacts] = {}
    accepted_digest = ""
    for part in ("train", "valid", "test"):
        bitext: BitextConfig = getattr(config, part)
        if bitext.accepted and part != "test":
            what = "accepted translations are for the test text only"
            problems.append(InputError(what, where=f"{part}.accepted"))
        elif part == "train":
            try:
                facts[part] = check_pairs(bitext)
            except InputError as error:
                problems.append(error)
        else:
            found, digest = check_text(bitext, problems)
            accepted_digest = digest or accepted_digest
            if found is not None:
                rows = found.rows * count_targets(bitext) if part == "valid" else found.rows
                facts[part] = replace(found, rows=rows)
    raise_problems(problems)
    return facts, accepted_digest


def _training_text(config: PrepareConfig) -> Iterator[RawPair]:
    """Read the rows of the training text."""
    return read_pairs(config.train)


def _make_normalizers(config: PrepareConfig) -> tuple[Normalizer, Normalizer]:
    """Make the normalizers of source and target. A vocabulary that is brought along has its own."""
    if config.vocabulary_from is None:
        normalizer = Normalizer(config.vocabulary.normalization)
        return normalizer, normalizer
    given = Vocabularies.load(config.vocabulary_from)
    return Normalizer(given.source.normalization), Normalizer(given.target.normalization)


# --- outputs -----------------------------------------------------------------------------------------------------


def _make_vocabularies(config: PrepareConfig, out: Path, verdicts: Path) -> Vocabularies:
    """Copy, train, or take from an earlier run the vocabularies of source and target; if joint, the same one twice."""
    if config.vocabulary_from is not None:
        given = Vocabularies.load(config.vocabulary_from)
        write_vocabularies(out, given)
        return given
    return learn_vocabularies(
        config.vocabulary, out, lambda: read_kept(_training_text(config), verdicts), seed=config.seed
    )


def _summarize(manifest: Manifest, out: Path) -> str:
    left_out = [f"{number:,} {reason}" for reason, number in manifest.counts.items() if number]
    total = manifest.rows + sum(manifest.counts.values())
    cleaned = f", left out: {', '.join(left_out)} (see {out / REJECTED})" if left_out else ""
    return (
        f"prepare: {manifest.rows:,} of {total:,} training pairs{cleaned}; {manifest.extra['valid_rows']:,} for "
        f"validation, {manifest.extra['test_rows']:,} for test; {manifest.extra['pieces']:,} pieces; in {out}"
    )


def _list_notes(config: PrepareConfig, out: Path) -> Iterator[str]:
    """Yield notes about the text for the user."""
    lengths = read_manifest(out).extra.get(LENGTHS, {})
    sides = [side for side in ("source", "target") if lengths.get(side) == "characters"]
    if sides:
        unset = [f"data.{side}_language" for side in sides if getattr(config, f"{side}_language") is None]
        advice = f"; set {' and '.join(unset)}, which BLEU uses, too" if unset else ""
        yield (
            f"lengths of {' and '.join(sides)} are counted in characters: the script puts no blanks between words. "
            f"Ratios are relative to the usual one, {lengths['usual_ratio']:g} target characters for each of the "
            f"source{advice}"
        )
    parts = {part: read_manifest(out / part) for part in ("train", "valid", "test")}
    unknown = [
        f"{number / manifest.rows:.1%} of {part} {side}s"
        for part, manifest in parts.items()
        for side, number in manifest.extra.get(UNKNOWN_ROWS, {}).items()
    ]
    if unknown:
        yield f"{', '.join(unknown)} contain pieces that the vocabulary does not have: {_suggest_remedy(config)}"
    changed = {part: manifest.extra[NORMALIZED] for part, manifest in parts.items() if NORMALIZED in manifest.extra}
    if changed:
        rows = " and ".join(f"{number:,} of {parts[part].rows:,} {part} targets" for part, number in changed.items())
        yield (
            f"normalisation ({Vocabularies.load(out).target.normalization}) changes {rows}: metrics use them as "
            "given, but models write normalised text; see vocabulary.normalization"
        )


def _suggest_remedy(config: PrepareConfig) -> str:
    if config.vocabulary_from is not None:
        return f"check that the text is segmented like that of {config.vocabulary_from}"
    return "models cannot learn them; set vocabulary.byte_fallback = true, or character_coverage = 1.0"
