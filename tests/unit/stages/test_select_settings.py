"""`select` with filters, replacements, other rules and several processes."""

from __future__ import annotations

import gc
import io
import itertools
import shutil
import sys
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sentencepiece
import torch
from rich.console import Console

from seqkd.cli.main import main
from seqkd.config.stages import SelectConfig
from seqkd.config.toml import validate
from seqkd.corpus.manifest import read_manifest, write_manifest
from seqkd.errors import ConfigError, CorpusError, InputError
from seqkd.kernels import bleu
from seqkd.models.checkpoint import load_model, save_model
from seqkd.models.registry import build
from seqkd.search import score_pairs
from seqkd.stages.select import select
from seqkd.stages.select.shards import PIECE_ROWS
from seqkd.text.duplicates import DuplicateFinder
from seqkd.text.vocabulary import Vocabulary
from seqkd.tools.inspect import inspect
from tests.events import before, interrupted_before, placed
from tests.unit.stages.select_folders import (
    GOLD,
    KBEST,
    Lists,
    contents,
    rows_of,
    write_gold,
    write_kbest,
    write_prepared,
)

Row = tuple[int, str, str, list[int], list[int]]


def write_rows(folder: Path, rows: int, *, size: int, best: int = 3, kinds: int = 10) -> None:
    """Sources of some kinds, whose hypotheses get worse and differ from row to row."""
    write_prepared(folder / "prepared")
    gold: list[Row] = [
        (i, f"source {i % kinds}", f"the reference {i}", [i % kinds + 4], [20, 21, 22]) for i in range(rows)
    ]
    lists = [
        (i, [(f"the target {i * k % 7}", [20, 23, 30 + i * k % 7], -0.1 * k - 0.01 * (i % 50)) for k in range(best)])
        for i in range(rows)
    ]
    write_gold(folder / "prepared" / "train", rows=gold, size=size)
    write_kbest(folder / "kbest", lists=lists, size=size, sources={row: source for row, _, _, source, _ in gold})


def config(folders: Path, **values: Any) -> SelectConfig:
    prepared = folders / "prepared"
    inputs = {"kbest": folders / "kbest", "gold": prepared / "train", "prepared": prepared}
    return SelectConfig.model_validate({"rule": "seqkd", **inputs, **values})


def selected(folders: Path, name: str = "out", **values: Any) -> list[dict[str, Any]]:
    select.run(config(folders, **values), folders / name)
    return rows_of(folders / name)


def rejected(folders: Path, name: str = "out") -> list[str]:
    return (folders / name / "rejected.tsv").read_text().splitlines()[1:]


def test_a_rejected_row_can_have_its_next_hypothesis(folders: Path) -> None:
    rows = selected(folders, rejected="next")
    assert [row["target"] for row in rows] == ["won", "two and two", "three", "for"]
    assert (rows[2]["score"], rows[2]["origin"]) == (-2.0, "teacher")
    assert rejected(folders) == ["4\tempty hypothesis\tnext hypothesis"]
    manifest = read_manifest(folders / "out")
    assert manifest.counts == {}  # of the rows that are not there
    assert manifest.extra["rejected_to_next_hypothesis"] == {"empty hypothesis": 1}


def test_a_rejected_row_can_have_its_gold_target(folders: Path) -> None:
    rows = selected(folders, rejected="gold", filters={"min_score": -0.25})
    assert [row["target"] for row in rows] == ["one", "two and two", "three", "four"]
    assert [row["origin"] for row in rows] == ["gold", "teacher", "gold", "gold"]
    assert [row["score"] for row in rows] == [None, -0.25, None, None]
    assert rows[0]["target_ids"] == [20]
    assert rejected(folders)[0] == "0\tlow score\tgold target"
    assert read_manifest(folders / "out").extra["rejected_to_gold_target"] == {"empty hypothesis": 1, "low score": 2}


def test_each_reason_is_counted(folders: Path) -> None:
    lists = [
        (0, [("eins", [20], -0.5)]),
        (3, [("two two two", [21, 21, 21], -0.5)]),
        (4, [("drei drei", [20, 21, 22, 23, 24, 25, 26, 27], -0.5)]),
        (9, [("четыре", [32], -0.5)]),
    ]
    write_kbest(folders / "bad", lists=lists)
    filters = {"copies": True, "max_repeats": 2, "max_ratio": 2.5, "script": "Latin"}
    assert selected(folders, kbest=folders / "bad", filters=filters) == []
    counts = {"copy of the source": 1, "length ratio": 1, "repeats itself": 1, "wrong script": 1}
    assert read_manifest(folders / "out").counts == counts
    assert rejected(folders)[1] == "3\trepeats itself\tdropped"


def test_what_was_cut_and_what_is_far_from_the_reference(folders: Path) -> None:
    assert [row["id"] for row in selected(folders, rule="seqinter", filters={"max_ter": 50.0})] == [0, 3, 4]
    assert rejected(folders) == ["9\tfar from the reference\tdropped"]


def test_the_worst_scores_go_by_percentile(tmp_path: Path) -> None:
    write_rows(tmp_path, 100, size=30)
    rows = selected(tmp_path, filters={"worst_percent": 10.0})
    scores = sorted(-0.01 * (i % 50) for i in range(100))
    assert len(rows) == 90
    assert min(row["score"] for row in rows) == pytest.approx(scores[10])
    assert read_manifest(tmp_path / "out").counts == {"low score": 10}
    assert len(selected(tmp_path, "stricter", filters={"worst_percent": 10.0, "min_score": -0.205})) == 42


def test_duplicates_go_whatever_shard_they_are_in(tmp_path: Path) -> None:
    write_rows(tmp_path, 100, size=7, best=1)
    rows = selected(tmp_path, filters={"duplicates": True})
    assert [row["id"] for row in rows] == list(range(10))  # ten sources, one target
    assert read_manifest(tmp_path / "out").counts == {"duplicate pair": 90}
    assert rejected(tmp_path)[0] == "10\tduplicate pair\tdropped"
    assert len(rejected(tmp_path)) == 90
    assert not [path.name for path in (tmp_path / "out").iterdir() if path.name.startswith((".", "rejected-"))]


@pytest.mark.parametrize("stop_after", ["chosen", "first rewritten"])
def test_dropping_duplicates_goes_on_after_an_interruption(tmp_path: Path, stop_after: str) -> None:
    write_rows(tmp_path, 60, size=7)
    values: dict[str, Any] = {"rule": "sample", "filters": {"duplicates": True, "min_score": -0.45}, "rejected": "gold"}
    selected(tmp_path, "whole", **values)
    with placed(".arrow") as whole:
        selected(tmp_path, "again", **values)
    # Each shard is written once, and those with duplicates once more.
    shards = len(set(whole))
    assert len(whole) > shards + 1
    times = itertools.count(1)

    def stop(_: object, target: Any, *__: object) -> None:
        if Path(target).suffix == ".arrow" and next(times) > shards + (stop_after == "first rewritten"):
            raise KeyboardInterrupt

    with before("os.rename", stop), pytest.raises(KeyboardInterrupt):
        selected(tmp_path, **values)
    selected(tmp_path, **values)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    counts = read_manifest(tmp_path / "out").counts
    assert counts["duplicate pair"] == 60 - read_manifest(tmp_path / "out").rows > 0


def test_a_shard_without_its_list_of_rejected_rows_is_made_again(folders: Path) -> None:
    with interrupted_before("manifest.json"), pytest.raises(KeyboardInterrupt):
        selected(folders)
    (folders / "out" / "rejected-00001.tsv").unlink()
    selected(folders)
    assert rejected(folders) == ["4\tempty hypothesis\tdropped"]


@pytest.mark.parametrize("rule", ["seqinter", "mbr-chrf"])
def test_more_processes_give_the_same_bytes(tmp_path: Path, rule: str) -> None:
    write_rows(tmp_path, 60, size=13)
    values: dict[str, Any] = {"rule": rule, "rejected": "next", "filters": {"max_ter": 60.0}}
    selected(tmp_path, "alone", workers=1, **values)
    selected(tmp_path, "together", workers=2, **values)
    assert contents(tmp_path / "alone") == contents(tmp_path / "together")


def test_pieces_of_a_shard_do_not_change_it(tmp_path: Path) -> None:
    values: dict[str, Any] = {"rule": "sample", "rejected": "gold", "filters": {"min_score": -0.3}}
    found = []
    for name, size in (("pieces", 2 * PIECE_ROWS + 100), ("whole", 500)):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name, 2 * PIECE_ROWS + 100, size=size)
        rows = selected(tmp_path / name, **values)
        found.append((rows, rejected(tmp_path / name)))
    assert found[0] == found[1]


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The finder holds rows up to a number that would take minutes to reach.
    monkeypatch.setattr(select, "DuplicateFinder", partial(DuplicateFinder, bucket_rows=100, buffer_rows=100))
    # Without kernels sacrebleu cuts texts into words, and its tokenizers remember up to 65,536 of them.
    tokenizer = "none" if bleu.kernels() is None else "13a"
    size, peaks, arrow = 400, [], []
    for name, rows in (("warm", 400), ("little", 400), ("much", 8000)):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name, rows, size=size, kinds=rows // 2)
        options = {"rule": "seqinter", "rejected": "next", "filters": {"duplicates": True}, "tokenizer": tokenizer}
        settings = config(tmp_path / name, **options, workers=1)
        # What other tests have left makes full collections rare. The second collection counts what is not frozen, and
        # so collections are as frequent as in a process of its own.
        gc.collect()
        gc.freeze()
        gc.collect()
        tracemalloc.start()
        select.run(settings, tmp_path / name / "out")
        gc.unfreeze()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        arrow.append(pa.default_memory_pool().bytes_allocated())
    # 19 shards more: what is known of each, and nothing of its 400 rows, which would take far more than 20 bytes each.
    assert peaks[2] - peaks[1] < 8_000 * 19
    assert arrow[2] - arrow[1] < 100_000


def test_what_targets_have_of_the_vocabulary(folders: Path) -> None:
    selected(folders, rule="seqinter")
    extra = read_manifest(folders / "out").extra
    # gold: 20 to 24; selected: 20, 21, 22, 23, 32
    assert (extra["vocabulary_in_gold_targets"], extra["vocabulary_in_targets"], extra["vocabulary_lost"]) == (5, 5, 1)


def test_an_unknown_script_is_told_before_work_starts(folders: Path) -> None:
    with pytest.raises(InputError, match="no script is named 'Klingon'"):
        selected(folders, filters={"script": "Klingon"})
    assert not (folders / "out").exists()


def test_japanese_words_without_their_package_are_told_before_work_starts(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ipadic", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"(?s)ja-mecab needs MeCab.*seqkd\[ja\]"):
        selected(folders, rule="seqinter", tokenizer="ja-mecab")
    assert not (folders / "out").exists()
    selected(folders, rule="seqinter", tokenizer="13a")


def in_language(folders: Path, language: str) -> None:
    """Say that the gold targets are in a language."""
    gold = folders / "prepared" / "train"
    manifest = read_manifest(gold)
    manifest.extra["target_language"] = language
    write_manifest(gold, manifest)


def test_hypotheses_in_another_language_are_rejected(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    german, english = "Die Kinder spielen heute im Garten.", "The children are playing in the garden."
    lists: Lists = [(0, [(german, [30], -0.1), (english, [31], -0.2)]), *KBEST[1:]]
    shutil.rmtree(folders / "kbest")
    write_kbest(folders / "kbest", lists=lists)
    with pytest.raises(CorpusError, match="its target language is not known, which"):
        selected(folders, filters={"language": True})
    in_language(folders, "en")
    rows = selected(folders, "next", filters={"language": True}, rejected="next")
    assert rows[0]["target"] == english
    manifest = read_manifest(folders / "next")
    assert manifest.extra["rejected_to_next_hypothesis"]["another language"] == 1
    assert "py3langid" in manifest.extra
    monkeypatch.setitem(sys.modules, "py3langid", None)
    selected(folders, "next", filters={"language": True}, rejected="next")  # finished
    with pytest.raises(InputError, match="py3langid, which is not installed"):
        selected(folders, "new", filters={"language": True})
    assert not (folders / "new").exists()


def test_sentence_bleu_and_ter_follow_the_language_of_the_targets(folders: Path) -> None:
    rows = [(0, "eins", "\u4e00\u4e8c\u4e09\u56db\u4e94", [10], [20])]
    near, far = "\u4e00\u4e8c\u4e09\u56db\u516d", "\u4e03\u516b\u4e5d\u56db\u5341"
    lists: Lists = [(0, [(far, [30], -0.1), (near, [31], -0.2)])]
    for folder in ("prepared/train", "kbest"):
        shutil.rmtree(folders / folder)
    write_gold(folders / "prepared" / "train", rows=rows)
    write_kbest(folders / "kbest", lists=lists)
    # Without a language each text is one word, wrong in both.
    assert [row["target"] for row in selected(folders, "before", rule="seqinter")] == [far]
    assert [row["target"] for row in selected(folders, "before-ter", rule="ter")] == [far]
    in_language(folders, "zh")
    assert [row["target"] for row in selected(folders, "after", rule="seqinter")] == [near]
    assert [row["target"] for row in selected(folders, "after-ter", rule="ter")] == [near]
    assert [row["target"] for row in selected(folders, "filtered", filters={"max_ter": 50.0}, rejected="next")] == [
        near
    ]
    assert read_manifest(folders / "after").extra["target_language"] == "zh"
    assert [row["target"] for row in selected(folders, "asked", rule="seqinter", tokenizer="13a")] == [far]
    assert read_manifest(folders / "asked").fingerprint["config"]["tokenizer"] == "13a"


def test_a_rule_without_bleu_needs_no_package(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_language(folders, "ja")
    monkeypatch.setitem(sys.modules, "ipadic", None)
    selected(folders, "one", rule="chrf")
    with pytest.raises(InputError, match="target_language 'ja' asks for"):
        selected(folders, "other", rule="mbr-bleu")
    assert not (folders / "other").exists()


def test_unknown_pieces_are_no_targets_unless_they_are_wanted(folders: Path) -> None:
    lists: Lists = [
        (0, [("won \u2047 ", [30, 3], -0.5), ("one", [20], -0.75)]),
        *KBEST[1:],
    ]
    shutil.rmtree(folders / "kbest")
    write_kbest(folders / "kbest", lists=lists)
    assert 0 not in [row["id"] for row in selected(folders, "out")]
    manifest = read_manifest(folders / "out")
    assert manifest.counts["unknown piece"] == 1
    assert "unknown_rows" not in manifest.extra
    assert manifest.fingerprint["config"] == {"rule": "seqkd"}
    assert selected(folders, "next", rejected="next")[0]["target"] == "one"
    kept = selected(folders, "all", filters={"unknown": False})
    assert kept[0]["target_ids"] == [30, 3]
    assert read_manifest(folders / "all").extra["unknown_rows"] == {"target": 1}


def test_settings_that_change_nothing_leave_the_fingerprint_as_it_was(folders: Path) -> None:
    selected(folders, workers=3, filters={}, tokenizer="13a")
    assert read_manifest(folders / "out").fingerprint["config"] == {"rule": "seqkd"}
    selected(folders, "other", filters={"max_ratio": 3.0})
    assert read_manifest(folders / "other").fingerprint["config"] == {"rule": "seqkd", "filters": {"max_ratio": 3.0}}


@pytest.fixture
def translated(tmp_path: Path) -> Path:
    """Texts with a vocabulary of their own, and two models that know it."""
    lines = [f"{source} {target}" for _, source, target, _, _ in GOLD] * 5
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*lines, "won for fore too"]),
        model_prefix=str(tmp_path / "vocab"),
        vocab_size=40,
        hard_vocab_limit=False,
        pad_id=1,
        bos_id=0,
        eos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    vocabulary = tmp_path / "vocab.model"
    write_prepared(tmp_path / "prepared")
    write_gold(tmp_path / "prepared" / "train")
    write_kbest(tmp_path / "kbest")
    size = Vocabulary.load(vocabulary).size
    settings = {"dim": 32, "heads": 2, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1, "max_positions": 64}
    for seed, name in enumerate(("forward", "reverse")):
        torch.manual_seed(seed)
        model = build("transformer", settings, source_vocab=size, target_vocab=size)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3.0)  # models with opinions
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, model, arch="transformer", settings=settings, vocab=vocabulary)
    return tmp_path


@pytest.mark.parametrize(
    "models",
    [
        pytest.param(("forward",), marks=pytest.mark.slow),
        pytest.param(("reverse",), marks=pytest.mark.slow),
        ("forward", "reverse"),
    ],
)
def test_rerank_takes_the_highest_score_of_other_models(translated: Path, models: tuple[str, ...]) -> None:
    table = {name: translated / name for name in models}
    select.run(
        config(translated, rule="rerank", rerank={**table, "channel_weight": 0.5}, rejected="next"),
        translated / "out",
        device="cpu",
    )
    loaded = {name: load_model(translated / name) for name in models}

    def scored(name: str, source: str, target: str) -> float:
        encode = loaded[name].vocabularies.target.encode
        model: Any = loaded[name].model
        found = score_pairs([model], [(encode([source])[0], encode([target])[0])], batch_tokens=100)[0]
        return found.logprob / found.tokens

    expected = []
    for (_, source, _, _, _), (_, hypotheses) in zip(GOLD, KBEST, strict=True):
        values = []
        for text, ids, score in hypotheses:
            value = scored("forward", source, text) if "forward" in models else score / (len(ids) + 1)
            if "reverse" in models:
                value += 0.5 * scored("reverse", text, source)
            values.append((value if text else -1e9, text))
        expected.append(max(values)[1])
    assert [row["target"] for row in rows_of(translated / "out")] == expected
    assert set(read_manifest(translated / "out").fingerprint["inputs"]) == {"gold", "kbest", *models}


@pytest.mark.parametrize(("otherwise", "targets"), [("drop", []), ("next", []), ("gold", [row[2] for row in GOLD])])
def test_rows_that_a_reranking_model_has_no_positions_for_are_rejected(
    translated: Path, otherwise: str, targets: list[str]
) -> None:
    vocabulary = translated / "vocab.model"
    size = Vocabulary.load(vocabulary).size
    settings = {"dim": 32, "heads": 2, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1, "max_positions": 1}
    model = build("transformer", settings, source_vocab=size, target_vocab=size)
    (translated / "short").mkdir()
    save_model(translated / "short", model, arch="transformer", settings=settings, vocab=vocabulary)
    rerank = {"forward": translated / "short"}
    select.run(config(translated, rule="rerank", rerank=rerank, rejected=otherwise), translated / "out", device="cpu")
    assert [row["target"] for row in rows_of(translated / "out")] == targets
    reasons = {line.split("\t")[1] for line in rejected(translated)}
    assert "not judged by the scorer" in reasons


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rule": "rerank"}, 'rule "rerank" requires the table `scorer`'),
        ({"rule": "score"}, 'rule "score" requires the table `scorer`'),
        ({"rule": "seqkd", "rerank": {"forward": "x"}}, "does not read a scorer: leave the table `rerank` out"),
        ({"rule": "score", "scorer": {"forward": "x"}, "rerank": {"forward": "x"}}, "give one scorer"),
        ({"rule": "mbr-score", "scorer": {"forward": "x"}}, "requires a scorer that compares with a reference"),
        ({"rule": "all", "keep": 2}, "keeps every hypothesis: leave `keep` out"),
    ],
)
def test_a_scorer_and_its_rule_go_together(values: dict[str, Any], message: str) -> None:
    plain = {"kbest": "k", "gold": "g", "prepared": "p", **values}
    with pytest.raises(ConfigError, match=message):
        validate(SelectConfig, plain, "file")


def test_inspect_shows_a_distilled_corpus(folders: Path) -> None:
    selected(folders, rule="seqinter", rejected="gold", filters={"min_score": -0.7})
    text = io.StringIO()
    inspect(folders / "out", console=Console(file=text, width=150))
    lines = [" ".join(line.strip("│┃ \n").replace("│", " ").split()) for line in text.getvalue().splitlines()]
    for line in (
        "targets from gold 2",
        "targets from teacher 2",
        "scores: least -0.5",
        "scores: median -0.375",
        "rejected_to_gold_target.low score 2",
        "share_equal_to_reference 0.75",
        "vocabulary_lost 1",
    ):
        assert line in lines
    assert any("origin" in line and "gold" in line for line in lines)  # of a sample row


def test_the_command_line(folders: Path) -> None:
    file = folders / "select.toml"
    lines = [f'{key} = "{folders / path}"' for key, path in (("kbest", "kbest"), ("gold", "prepared/train"))]
    lines += [f'prepared = "{folders / "prepared"}"', 'rule = "seqinter"', 'rejected = "gold"', "[filters]"]
    file.write_text("\n".join([*lines, "min_score = -0.7", ""]))
    assert main(["select", "--config", str(file), "--out", str(folders / "out")]) == 0
    assert [row["target"] for row in rows_of(folders / "out")] == ["one", "two and two", "three", "for"]
    assert rejected(folders) == ["0\tlow score\tgold target", "4\tlow score\tgold target"]
