from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sacrebleu
import torch

from seqkd.config.stages import EvaluateConfig
from seqkd.corpus.manifest import Manifest, build_fingerprint, read_manifest, write_manifest
from seqkd.corpus.writer import write_shard
from seqkd.errors import ConflictError, CorpusError, InputError
from seqkd.metrics.registry import Outputs
from seqkd.metrics.results import DecodeResult, EvaluationResult, read_result
from seqkd.metrics.significance import compare_outputs
from seqkd.metrics.speed import Speed
from seqkd.models.checkpoint import load_model, save_model
from seqkd.models.registry import build
from seqkd.search import score_pairs
from seqkd.stages.evaluate import evaluate
from seqkd.stages.evaluate.models import find_recipe
from seqkd.text.vocabulary import Vocabulary
from tests.unit.stages.support import write_echo

SOURCES = ["eins", "zwei drei", "vier fünf sechs", "drei eins", "sechs", "zwei zwei", "fünf eins", "vier"] * 2
TARGETS = ["one", "two three", "four five six", "three one", "six", "two two", "five one", "four"] * 2
SETTINGS = {
    "dim": 16,
    "heads": 2,
    "ffn_dim": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "dropout": 0.0,
    "norm": "pre",
    "positions": "sinusoidal",
    "activation": "relu",
    "embeddings": "shared",
    "max_positions": 32,
}


def write_test(folder: Path, vocabulary: Vocabulary, *, rows: int = len(SOURCES)) -> Path:
    folder.mkdir(parents=True)
    sources, targets = SOURCES[:rows], TARGETS[:rows]
    table = pa.table(
        {
            "id": list(range(rows)),
            "source": sources,
            "target": targets,
            "source_ids": vocabulary.encode(sources),
            "target_ids": vocabulary.encode(targets),
        }
    )
    shards = [write_shard(folder, 0, table)] if rows else []
    made_by = build_fingerprint("prepare", {}, {})
    manifest = Manifest(kind="corpus", fingerprint=made_by, rows=rows, shards=shards, vocabulary=vocabulary.digest)
    write_manifest(folder, manifest)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluate")
    path = root / "vocab.model"
    vocabulary = Vocabulary.train(
        SOURCES + TARGETS,
        path,
        size=40,
        type="bpe",
        byte_fallback=False,
        character_coverage=1.0,
        symbols=(),
        seed=1,
    )
    write_test(root / "gold" / "test", vocabulary)
    accepted = [[text, text + " !"] if row % 2 else [text] for row, text in enumerate(TARGETS)]
    lines = "".join(json.dumps(texts) + "\n" for texts in accepted)
    (root / "gold" / "test.accepted.jsonl").write_text(lines)
    write_test(root / "plain" / "test", vocabulary)
    torch.manual_seed(1)
    model = build("transformer", SETTINGS, source_vocab=vocabulary.size, target_vocab=vocabulary.size)
    (root / "model").mkdir()
    save_model(root / "model", model, arch="transformer", settings=SETTINGS, vocab=path)
    return root


def config(folders: Path, part: str = "gold", **changes: object) -> EvaluateConfig:
    values: dict[str, object] = {
        "name": "small",
        "model": folders / "model",
        "role": "student",
        "corpus": folders / part / "test",
        "beams": (1, 3),
        "precision": "float32",
        "search": {"max_length_ratio": 1.0, "max_length_extra": 4},
    }
    return EvaluateConfig.model_validate(values | changes)


@pytest.fixture(scope="module")
def result(folders: Path) -> EvaluationResult:
    evaluate.run(config(folders), folders / "out", device="cpu")
    return read_result(folders / "out")


def texts(folders: Path, beam: int) -> list[str]:
    return (folders / "out" / f"hypotheses.beam{beam}.txt").read_text().splitlines()


def timed(found: DecodeResult) -> Speed:
    assert found.speed is not None
    return found.speed


def second_model(folders: Path, vocabulary: Path, seed: int = 2) -> Path:
    torch.manual_seed(seed)
    size = Vocabulary.load(vocabulary).size
    model = build("transformer", SETTINGS, source_vocab=size, target_vocab=size)
    out = folders / f"model-{seed}"
    if not out.exists():
        out.mkdir()
        save_model(out, model, arch="transformer", settings=SETTINGS, vocab=vocabulary)
    return out


def test_an_ensemble_is_evaluated_as_one(folders: Path, result: EvaluationResult, tmp_path: Path) -> None:
    other = second_model(folders, folders / "vocab.model")
    evaluate.run(config(folders, ensemble=[other], speed_against=folders / "model"), tmp_path / "out", device="cpu")
    together = read_result(tmp_path / "out")
    assert together.parameters == 2 * result.parameters
    assert together.baseline is not None
    models: list[Any] = [load_model(path).model for path in (folders / "model", other)]
    vocabulary = Vocabulary.load(folders / "vocab.model")
    pairs = list(zip(vocabulary.encode(SOURCES), vocabulary.encode(TARGETS), strict=True))
    scores = score_pairs(models, pairs, batch_tokens=4000, device=torch.device("cpu"))
    expected = math.exp(-sum(score.logprob for score in scores) / sum(score.tokens for score in scores))
    assert together.perplexity == pytest.approx(expected, rel=1e-5)
    assert together.perplexity != pytest.approx(result.perplexity)
    with pytest.raises(ConflictError, match=r"inputs\.model2"):
        evaluate.run(config(folders, speed_against=folders / "model"), tmp_path / "out", device="cpu")


def test_scores_are_those_of_the_texts_written(folders: Path, result: EvaluationResult) -> None:
    for beam in (1, 3):
        outputs = texts(folders, beam)
        assert len(outputs) == len(TARGETS)
        assert result.decodes[str(beam)].bleu == sacrebleu.corpus_bleu(outputs, [TARGETS]).score
        assert result.decodes[str(beam)].chrf == sacrebleu.corpus_chrf(outputs, [TARGETS]).score
        assert result.decodes[str(beam)].ter == sacrebleu.corpus_ter(outputs, [TARGETS]).score


def test_accepted_translations_give_validity_and_several_references(result: EvaluationResult) -> None:
    assert all(found.valid is not None and 0.0 <= found.valid <= 1.0 for found in result.decodes.values())
    assert all(found.bleu_accepted is not None for found in result.decodes.values())
    assert result.signatures["bleu_accepted"].startswith("nrefs:var|")


def test_without_accepted_translations_both_stay_open(folders: Path) -> None:
    evaluate.run(config(folders, "plain", timed=False), folders / "out-plain", device="cpu")
    found = read_result(folders / "out-plain").decodes["1"]
    assert found.valid is None
    assert found.bleu_accepted is None


def test_perplexity_is_that_of_the_references(folders: Path, result: EvaluationResult) -> None:
    loaded = load_model(folders / "model")
    encode = loaded.vocabularies.target.encode
    pairs = list(zip(encode(SOURCES), encode(TARGETS), strict=True))
    scores = [score_pairs([loaded.model], [pair], batch_tokens=100)[0] for pair in pairs]  # type: ignore[list-item]
    mean = sum(score.logprob for score in scores) / sum(score.tokens for score in scores)
    assert result.perplexity == pytest.approx(math.exp(-mean), rel=1e-5)


def test_the_rest_of_the_result(folders: Path, result: EvaluationResult) -> None:
    loaded = load_model(folders / "model")
    assert result.parameters == sum(weight.numel() for weight in loaded.model.parameters())
    assert (result.name, result.role, result.arch, result.trained_on) == ("small", "student", "transformer", "gold")
    assert (result.rows, result.quality, result.quick, result.precision) == (16, "3", "1", "float32")
    assert (result.objective, result.recipe) == ("", "")  # without a manifest: the model was brought along
    assert result.mode_probability is not None
    assert 0.0 < result.mode_probability <= 1.0
    assert "thread" in result.device
    for found in result.decodes.values():
        assert timed(found).latency_ms > 0.0
        assert timed(found).latency_sentences == 16
        assert timed(found).sentences_per_second > 0.0
        assert found.speedup is None
    assert result.baseline is None


def test_one_thread_works_unless_another_number_is_asked_for(
    folders: Path, result: EvaluationResult, tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    assert result.device.endswith(", 1 thread")
    assert result.load is not None
    assert (result.load.threads, result.load.cores) == (1, os.cpu_count())
    assert all(timed(found).agreed is not None for found in result.decodes.values())
    evaluate.run(config(folders, threads=2, timed=False), tmp_path / "two", device="cpu")
    assert read_result(tmp_path / "two").device.endswith(", 2 threads")
    assert torch.get_num_threads() == before
    assert "threads" not in read_manifest(folders / "out").fingerprint["config"]
    assert read_manifest(tmp_path / "two").fingerprint["config"]["threads"] == 2


def test_a_second_run_does_nothing_and_other_settings_are_refused(folders: Path, result: EvaluationResult) -> None:
    evaluate.run(config(folders), folders / "out", device="cpu")
    assert read_result(folders / "out") == result  # speeds and all
    with pytest.raises(ConflictError, match=r"config\.beams"):
        evaluate.run(config(folders, beams=(1, 2)), folders / "out", device="cpu")


def test_manifests_hold_no_measured_time(folders: Path, result: EvaluationResult) -> None:
    assert result.rows == 16
    evaluate.run(config(folders), folders / "again", device="cpu")
    assert read_manifest(folders / "again").digest() == read_manifest(folders / "out").digest()


def test_wrong_corpora_are_refused(folders: Path, tmp_path: Path) -> None:
    vocabulary = Vocabulary.load(folders / "vocab.model")
    write_test(tmp_path / "empty" / "test", vocabulary, rows=0)
    with pytest.raises(CorpusError, match="no rows"):
        evaluate.run(config(folders, corpus=tmp_path / "empty" / "test"), tmp_path / "out", device="cpu")
    other = Vocabulary.train(
        SOURCES, tmp_path / "v", size=30, type="bpe", byte_fallback=False, character_coverage=1.0, symbols=(), seed=1
    )
    write_test(tmp_path / "other" / "test", other)
    with pytest.raises(CorpusError, match="was made with a target vocabulary other than"):
        evaluate.run(config(folders, corpus=tmp_path / "other" / "test"), tmp_path / "out2", device="cpu")


def test_accepted_rows_must_cover_the_test_corpus(folders: Path, tmp_path: Path) -> None:
    write_test(tmp_path / "test", Vocabulary.load(folders / "vocab.model"))
    (tmp_path / "test.accepted.jsonl").write_text('["one"]\n')
    with pytest.raises(CorpusError, match="does not fit"):
        evaluate.run(config(folders, corpus=tmp_path / "test"), tmp_path / "out", device="cpu")


def write_rows(folder: Path, rows: list[tuple[str, str]]) -> Path:
    """A test corpus of these sources and targets, in the vocabulary of `folders`."""
    vocabulary = Vocabulary.load(folder.parent / "vocab.model")
    folder.mkdir()
    sources, targets = map(list, zip(*rows, strict=True))
    columns = {"id": list(range(len(rows))), "source": sources, "target": targets}
    ids = {"source_ids": vocabulary.encode(sources), "target_ids": vocabulary.encode(targets)}
    shards = [write_shard(folder, 0, pa.table({**columns, **ids}))]
    made_by = build_fingerprint("prepare", {}, {})
    manifest = Manifest(kind="corpus", fingerprint=made_by, rows=len(rows), shards=shards, vocabulary=vocabulary.digest)
    write_manifest(folder, manifest)
    return folder


LONG = "eins zwei drei " * 20


def test_rows_longer_than_the_model_have_empty_outputs_and_are_counted(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("eins", "one"), (LONG, "one two three"), ("zwei", "two " * 40), ("drei", "three")]
    corpus = write_rows(folders / "long", rows)
    evaluate.run(config(folders, corpus=corpus), folders / "out-long", device="cpu")
    assert read_manifest(folders / "out-long").counts == {
        "source longer than max_positions": 1,
        "source or reference longer than max_positions": 2,
    }
    assert "small left 1 of 4 outputs empty: source longer than max_positions" in capsys.readouterr().err
    found = read_result(folders / "out-long")
    assert found.too_long == 1
    fitting = write_rows(folders / "fitting", [rows[0], rows[3]])
    evaluate.run(config(folders, corpus=fitting, timed=False), folders / "out-fitting", device="cpu")
    assert found.perplexity == pytest.approx(read_result(folders / "out-fitting").perplexity, rel=1e-5)
    for beam in (1, 3):
        outputs = (folders / "out-long" / f"hypotheses.beam{beam}.txt").read_text().split("\n")[:-1]
        assert [bool(output) for output in outputs] == [True, False, True, True]
        references = [target for _, target in rows]
        assert found.decodes[str(beam)].bleu == sacrebleu.corpus_bleu(outputs, [references]).score
        assert timed(found.decodes[str(beam)]).latency_sentences == 3


def test_a_test_corpus_that_the_model_has_no_positions_for_is_refused_first(folders: Path, tmp_path: Path) -> None:
    corpus = write_rows(folders / "longer", [(LONG, "one")])
    with pytest.raises(CorpusError, match="no row whose source fits 32 positions"):
        evaluate.run(config(folders, corpus=corpus), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_blank_and_long_lines_are_left_out_of_the_modes_probability(folders: Path) -> None:
    rows = [("eins", "one"), ("zwei drei", "two three")]
    plain = write_rows(folders / "mode", rows)
    evaluate.run(config(folders, corpus=plain, timed=False), folders / "out-mode", device="cpu")
    expected = read_result(folders / "out-mode").mode_probability
    assert expected is not None
    blank = write_rows(folders / "mode-blank", [("", "one"), *rows, (LONG, "one"), ("", "two")])
    evaluate.run(config(folders, corpus=blank, timed=False), folders / "out-mode-blank", device="cpu")
    assert read_result(folders / "out-mode-blank").mode_probability == pytest.approx(expected, rel=1e-5)


# --- speed-ups and models that write all positions at once ---------------------------------------------------------


def test_a_teachers_speed_ups_are_over_itself_at_the_largest_beam(folders: Path, tmp_path: Path) -> None:
    evaluate.run(config(folders, role="teacher"), tmp_path / "out", device="cpu")
    found = read_result(tmp_path / "out")
    assert found.baseline is not None
    assert (found.baseline.decode, found.baseline.speed) == ("3", found.decodes["3"].speed)
    assert found.decodes["3"].speedup == found.decodes["3"].speedup_batch1 == 1.0
    assert found.decodes["1"].speedup is not None
    assert found.decodes["1"].speedup > 0.0


@pytest.mark.usefixtures("echo")
def test_a_parallel_model_is_decoded_its_own_way_beside_the_teacher(folders: Path, tmp_path: Path) -> None:
    student = write_echo(tmp_path / "echo", folders / "vocab.model")
    evaluate.run(config(folders, model=student, speed_against=folders / "model"), tmp_path / "out", device="cpu")
    found = read_result(tmp_path / "out")
    assert (found.parallel, list(found.decodes), found.quick, found.quality) == (True, ["nat"], "nat", "nat")
    assert (found.perplexity, found.mode_probability) == (None, None)
    assert (tmp_path / "out" / "hypotheses.nat.txt").read_text().splitlines() == SOURCES
    assert found.decodes["nat"].bleu == sacrebleu.corpus_bleu(SOURCES, [TARGETS]).score
    assert found.baseline is not None
    assert found.baseline.decode == "3"
    ratio = timed(found.decodes["nat"]).sentences_per_second / found.baseline.speed.sentences_per_second
    assert found.decodes["nat"].speedup == pytest.approx(ratio)
    assert ratio > 1.0  # it does next to nothing


@pytest.mark.usefixtures("echo")
def test_the_teacher_chooses_among_the_candidates_where_it_is_asked_to(folders: Path, tmp_path: Path) -> None:
    student = write_echo(tmp_path / "echo", folders / "vocab.model")
    ways = [{"name": "one"}, {"name": "npd", "candidates": 3, "rescore": True}]
    changed = config(folders, model=student, decode=ways, rescore_with=folders / "model", timed=False)
    evaluate.run(changed, tmp_path / "out", device="cpu")
    found = read_result(tmp_path / "out")
    assert (list(found.decodes), found.quick, found.quality) == (["one", "npd"], "one", "npd")
    loaded = load_model(folders / "model")
    expected = []
    for ids in loaded.vocabularies.target.encode(SOURCES):
        candidates = [ids[start:] for start in range(3)]
        scores = score_pairs([loaded.model], [(ids, target) for target in candidates], batch_tokens=100)  # type: ignore[list-item]
        expected.append(candidates[max(range(3), key=lambda index: scores[index].logprob / scores[index].tokens)])
    outputs = (tmp_path / "out" / "hypotheses.npd.txt").read_text().split("\n")[:-1]
    assert outputs == loaded.vocabularies.target.decode(expected) != SOURCES


@pytest.mark.usefixtures("echo")
def test_candidates_that_the_teacher_has_no_positions_for_lose_and_are_counted(folders: Path, tmp_path: Path) -> None:
    student = write_echo(tmp_path / "echo", folders / "vocab.model")
    vocabulary = Vocabulary.load(folders / "vocab.model")
    small = {**SETTINGS, "max_positions": 6}
    torch.manual_seed(3)
    model = build("transformer", small, source_vocab=vocabulary.size, target_vocab=vocabulary.size)
    (tmp_path / "small").mkdir()
    save_model(tmp_path / "small", model, arch="transformer", settings=small, vocab=folders / "vocab.model")
    lengths = [len(ids) for ids in vocabulary.encode(SOURCES)]
    assert min(lengths) < 6 <= max(lengths)
    changed = config(
        folders,
        model=student,
        decode=[{"name": "npd", "candidates": 2, "rescore": True}],
        rescore_with=tmp_path / "small",
        timed=False,
    )
    evaluate.run(changed, tmp_path / "out", device="cpu")
    lost = 2 * sum(length >= 6 for length in lengths)
    assert read_result(tmp_path / "out").decodes["npd"].unjudged == lost
    counts = {"candidates longer than the rescoring model's max_positions": lost}
    assert read_manifest(tmp_path / "out").counts == counts
    outputs = (tmp_path / "out" / "hypotheses.npd.txt").read_text().split("\n")[:-1]
    for source, output, length in zip(SOURCES, outputs, lengths, strict=True):
        assert length < 6 or output == source  # if all lose, the student's own first stays
    fingerprinted = read_manifest(tmp_path / "out").fingerprint["config"]["decode"]
    assert fingerprinted == [{"name": "npd", "candidates": 2, "rescore": True}]


@pytest.mark.usefixtures("echo")
def test_decodes_that_do_not_fit_the_model_are_refused(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'transformer' goes left to right"):
        evaluate.run(config(folders, decode=[{"name": "nat"}]), tmp_path / "out", device="cpu")
    student = write_echo(tmp_path / "echo", folders / "vocab.model")
    changed = config(folders, model=student, decode=[{"strategy": "lookahead"}])
    with pytest.raises(InputError, match="'lookahead'"):
        evaluate.run(changed, tmp_path / "out2", device="cpu")


def test_a_teacher_of_another_vocabulary_is_timed_on_the_same_text(folders: Path, tmp_path: Path) -> None:
    other = tmp_path / "v"
    Vocabulary.train(
        SOURCES, other, size=30, type="bpe", byte_fallback=False, character_coverage=1.0, symbols=(), seed=1
    )
    size = Vocabulary.load(other).size
    (tmp_path / "teacher").mkdir()
    model = build("transformer", SETTINGS, source_vocab=size, target_vocab=size)
    save_model(tmp_path / "teacher", model, arch="transformer", settings=SETTINGS, vocab=other)
    evaluate.run(config(folders, speed_against=tmp_path / "teacher"), tmp_path / "out", device="cpu")
    result = read_result(tmp_path / "out")
    assert result.baseline is not None
    assert result.baseline.speed.sentences_per_second > 0.0
    assert result.decodes["1"].speedup is not None


def test_objective_and_recipe_come_from_the_manifest(tmp_path: Path) -> None:
    def trained(name: str, first: str = "", **objective: object) -> tuple[str, str]:
        (tmp_path / name).mkdir()
        inputs = {"init_from": first} if first else {}
        made_by = build_fingerprint("train", {"model": {"arch": "ctc"}, "objective": objective}, inputs)
        write_manifest(tmp_path / name, Manifest(kind="model", fingerprint=made_by))
        return find_recipe(tmp_path / name)

    plain, again = trained("a", type="ctc", glancing=None), trained("b", type="ctc", glancing=None)
    glanced = trained("c", type="ctc", glancing=[0.5, 0.3])
    assert plain == again
    assert (plain[0], glanced[0]) == ("ctc", "ctc+glat")
    assert plain[1] != glanced[1]
    tuned = trained("d", "0" * 64, type="ctc", glancing=None)  # no twin of one that began anew
    assert tuned[0] == plain[0]
    assert tuned[1] != plain[1]
    assert tuned == trained("e", "1" * 64, type="ctc", glancing=None)


# --- a baseline ---------------------------------------------------------------------------------------------------


def test_differences_from_the_baseline_are_tested(
    folders: Path, result: EvaluationResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = second_model(folders, folders / "vocab.model")
    settings = config(folders, name="other", model=other, baseline=folders / "out", beams=(1, 2), timed=False)
    evaluate.run(settings, tmp_path / "out", device="cpu")
    found = read_result(tmp_path / "out")
    assert found.compared_with == "small"
    assert found.decodes["2"].significance == {}  # the baseline has no such beam
    tested = found.decodes["1"].significance
    assert tested.keys() == {"bleu", "bleu_accepted", "chrf", "ter", "valid"}
    for name, one in tested.items():
        ours, theirs = found.decodes["1"].get_value(name), result.decodes["1"].get_value(name)
        assert ours is not None
        assert theirs is not None
        assert one.difference == ours - theirs
        assert one.low <= one.high
        assert one.p_values.keys() == one.samples.keys() == {"bootstrap", "randomization"}
        assert all(0 < p_value <= 1 for p_value in one.p_values.values())
    hypotheses = [(tmp_path / "out" / "hypotheses.beam1.txt").read_text().splitlines(), texts(folders, 1)]
    own, baseline = (Outputs(hypotheses=lines, references=TARGETS, sources=SOURCES) for lines in hypotheses)
    assert tested["chrf"].p_values["bootstrap"] == compare_outputs("chrf", baseline, own).p_value
    # With other outputs of the baseline it is made again, and with equal ones it is not.
    capsys.readouterr()
    evaluate.run(settings, tmp_path / "out", device="cpu")
    assert capsys.readouterr().err == f"evaluate: {tmp_path / 'out'} is up to date\n"
    shutil.copytree(folders / "out", tmp_path / "changed")
    file = tmp_path / "changed" / "hypotheses.beam1.txt"
    file.write_text(file.read_text().replace(texts(folders, 1)[0], "one", 1))
    changed = settings.model_copy(update={"baseline": tmp_path / "changed"})
    with pytest.raises(ConflictError, match=r"inputs\.baseline\.outputs"):
        evaluate.run(changed, tmp_path / "out", device="cpu")


def test_a_finished_evaluation_without_comparison_is_used(
    folders: Path, result: EvaluationResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert result.compared_with == ""
    shutil.copytree(folders / "out", tmp_path / "baseline")
    settings = config(folders, baseline=tmp_path / "baseline")
    capsys.readouterr()
    evaluate.run(settings, folders / "out", device="cpu")
    assert "is up to date, without a comparison with small; --overwrite makes one" in capsys.readouterr().err
    assert read_result(folders / "out") == result


@pytest.mark.usefixtures("result")
def test_a_baseline_that_cannot_be_compared_is_refused_before_any_work(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    other = write_test(tmp_path / "other", Vocabulary.load(folders / "vocab.model"), rows=5)
    with pytest.raises(CorpusError, match="is an evaluation on a test text other than") as raised:
        evaluate.run(config(folders, corpus=other, baseline=folders / "out"), out, device="cpu")
    assert str(folders / "out") in str(raised.value)
    assert str(other) in str(raised.value)
    with pytest.raises(CorpusError, match="is of kind 'corpus', not an evaluation"):
        evaluate.run(config(folders, baseline=folders / "gold" / "test"), out, device="cpu")
    with pytest.raises(CorpusError, match="no such folder"):
        evaluate.run(config(folders, baseline=tmp_path / "none"), out, device="cpu")
    shutil.copytree(folders / "out", tmp_path / "cut")
    file = tmp_path / "cut" / "hypotheses.beam3.txt"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(CorpusError, match="damaged: 15 whole lines for 16 rows"):
        evaluate.run(config(folders, baseline=tmp_path / "cut"), out, device="cpu")
    assert not out.exists()


def test_one_row_is_not_compared(folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = write_test(tmp_path / "one", Vocabulary.load(folders / "vocab.model"), rows=1)
    settings = config(folders, corpus=corpus, beams=(1,))
    evaluate.run(settings, tmp_path / "baseline", device="cpu")
    evaluate.run(settings.model_copy(update={"baseline": tmp_path / "baseline"}), tmp_path / "out", device="cpu")
    assert "small is not compared with small: the test text has one row" in capsys.readouterr().err
    found = read_result(tmp_path / "out")
    assert (found.compared_with, found.decodes["1"].significance) == ("", {})


# --- metrics by name ----------------------------------------------------------------------------------------------


def test_a_list_names_all_metrics_that_are_measured(
    folders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(folders, metrics=["ter", "valid", "chrf"], beams=(1,))
    evaluate.run(settings, tmp_path / "out", device="cpu")
    found = read_result(tmp_path / "out").decodes["1"]
    assert (found.bleu, found.bleu_accepted, found.main) == (None, None, "valid")
    assert found.score == 100 * (found.valid or 0.0)
    assert found.chrf is not None
    said = capsys.readouterr().err
    assert f"beam 1: chrF {found.chrf:.2f}, TER {found.ter:.2f}, {found.valid:.1%} valid, " in said


def test_a_metric_that_needs_accepted_translations_is_refused_without_them(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="metrics: valid: needs accepted translations, and the test text has none"):
        evaluate.run(config(folders, part="plain", metrics=["chrf", "valid"]), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
