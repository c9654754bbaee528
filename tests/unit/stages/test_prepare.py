from __future__ import annotations

import gzip
import itertools
import json
import lzma
import multiprocessing
import os
import random
import signal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqkd.config.stages import PrepareConfig
from seqkd.config.toml import validate
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import ConfigError, ConflictError, InputError, TextError, WorkError
from seqkd.interop.fairseq_dictionary import word_vocabulary
from seqkd.stages.prepare import prepare
from seqkd.text.mapped import MAP, SOURCE_MAP, PieceMap
from seqkd.text.normalize import Normalization, Normalizer
from seqkd.text.vocabularies import VOCABULARY, Vocabularies
from seqkd.text.vocabulary import Vocabulary
from seqkd.tools.verify import verify
from tests.events import before, interrupted_before, largest_file, placed
from tests.manifests import comparable

_RANDOM = random.Random(0)
WORDS = ["".join(_RANDOM.choice("abcdeghiklmnorstu") for _ in range(_RANDOM.randint(1, 7))) for _ in range(120)]


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(3, 9)))


def write(folder: Path, name: str, rows: list[tuple[str, str]]) -> None:
    (folder / f"{name}.src").write_text("".join(f"{source}\n" for source, _ in rows), encoding="utf-8", newline="")
    (folder / f"{name}.tgt").write_text("".join(f"{target}\n" for _, target in rows), encoding="utf-8", newline="")


def pairs(number: int, seed: int) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    return [(sentence(rng), sentence(rng)) for _ in range(number)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = pairs(250, 1)
    rows[10] = ("", "empty side")
    rows[20] = rows[5]
    rows[30] = (f"  {rows[6][0]}", rows[6][1].replace(" ", "\u00a0"))  # the pair of row 6 after normalisation
    rows[40] = ("same here", "same here")
    rows[249] = rows[0]
    write(folder, "train", rows)
    write(folder, "valid", [*pairs(19, 2), ("", "an empty row stays")])
    write(folder, "test", pairs(12, 3))
    return folder


LEFT_OUT = {11: "empty side", 21: "duplicate pair", 31: "duplicate pair", 41: "identical sides", 250: "duplicate pair"}


def config(raw: Path, **changes: Any) -> PrepareConfig:
    values: dict[str, Any] = {
        part: {"source": raw / f"{part}.src", "target": raw / f"{part}.tgt"} for part in ("train", "valid", "test")
    }
    values |= {"vocabulary": {"size": 330}, "shard_rows": 64}
    return validate(PrepareConfig, values | changes, "test")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): comparable(path) for path in folder.rglob("*") if path.is_file()}


def test_the_output_is_as_promised(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "gold"
    prepare.run(config(raw), out)
    names = {path.name for path in out.iterdir()}
    assert names == {"train", "valid", "test", "vocab.model", "rejected.tsv", "manifest.json", "cost.json"}
    manifest = read_manifest(out)
    assert manifest.kind == "prepared"
    assert (manifest.rows, manifest.extra["valid_rows"], manifest.extra["test_rows"]) == (245, 20, 12)
    assert {reason: number for reason, number in manifest.counts.items() if number} == {
        "empty side": 1,
        "duplicate pair": 3,
        "identical sides": 1,
    }
    vocabulary = Vocabulary.load(out / "vocab.model")
    assert vocabulary.size == 330
    assert vocabulary.digest == manifest.vocabulary == read_manifest(out / "train").vocabulary
    lines = (out / "rejected.tsv").read_text().splitlines()
    assert lines == ["line\treason", *(f"{line}\t{reason}" for line, reason in LEFT_OUT.items())]


def test_train_holds_the_kept_rows_in_order(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "gold"
    prepare.run(config(raw), out)
    corpus = Corpus.open(out / "train", "corpus")
    assert sum(table.num_rows for table in corpus.tables()) == corpus.rows
    assert [shard.rows for shard in corpus.manifest.shards] == [64, 64, 64, 53]
    table = corpus.take(np.arange(corpus.rows), ["id", "source", "target", "source_ids", "target_ids"])
    assert table["id"].to_pylist() == list(range(245))
    normalizer = Normalizer()
    sources = (raw / "train.src").read_text().split("\n")[:-1]
    kept = [normalizer(text) for line, text in enumerate(sources, 1) if line not in LEFT_OUT]
    assert table["source"].to_pylist() == kept
    vocabulary = Vocabulary.load(out / "vocab.model")
    assert table["source_ids"].to_pylist() == vocabulary.encode(kept)
    assert vocabulary.decode(table["target_ids"].to_pylist()) == table["target"].to_pylist()
    assert corpus.manifest.source_tokens == sum(len(ids) for ids in table["source_ids"].to_pylist())
    assert corpus.manifest.target_tokens == sum(len(ids) for ids in table["target_ids"].to_pylist())


def test_valid_and_test_lose_no_row(raw: Path, tmp_path: Path) -> None:
    rows = [("same", "same"), ("", ""), ("a " * 300, "b"), ("same", "same")]
    write(raw, "test", rows)
    out = tmp_path / "gold"
    prepare.run(config(raw), out)
    table = Corpus.open(out / "test").take(np.arange(4), ["id", "source", "target"])
    assert table["id"].to_pylist() == [0, 1, 2, 3]
    assert list(zip(table["source"].to_pylist(), table["target"].to_pylist(), strict=True)) == rows


def test_vocabularies_per_side(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "gold"
    prepare.run(config(raw, vocabulary={"size": 330, "joint": False}), out)
    source, target = Vocabulary.load(out / "vocab.source.model"), Vocabulary.load(out / "vocab.model")
    assert source.digest != target.digest
    manifest = read_manifest(out / "train")
    assert (manifest.vocabulary, manifest.extra["source_vocabulary"]) == (target.digest, source.digest)
    table = Corpus.open(out / "test").take(np.arange(3), ["source", "source_ids", "target", "target_ids"])
    assert source.encode(table["source"].to_pylist()) == table["source_ids"].to_pylist()
    assert target.encode(table["target"].to_pylist()) == table["target_ids"].to_pylist()


def test_cleaning_can_be_switched_off(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "gold"
    prepare.run(config(raw, cleaning={"drop_duplicates": False, "drop_identical": False}), out)
    assert read_manifest(out).rows == 249


def test_the_same_bytes_again_and_from_other_files(raw: Path, tmp_path: Path) -> None:
    prepare.run(config(raw), tmp_path / "a")
    packed = tmp_path / "packed"
    packed.mkdir()
    for part in ("train", "valid", "test"):
        both = zip(*((raw / f"{part}.{side}").read_text().split("\n")[:-1] for side in ("src", "tgt")), strict=True)
        (packed / f"{part}.tsv.gz").write_bytes(gzip.compress("".join(f"{a}\t{b}\n" for a, b in both).encode()))
    bitexts = {part: {"source": packed / f"{part}.tsv.gz"} for part in ("train", "valid", "test")}
    prepare.run(config(raw, **bitexts), tmp_path / "b")
    prepare.run(config(raw), tmp_path / "c")
    first, other, again = (contents(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    assert {name for name in first if first[name] != other[name]} == {
        "manifest.json",
        *(f"{part}/manifest.json" for part in ("train", "valid", "test")),
    }


def test_a_finished_folder_is_left_alone(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gold"
    prepare.run(config(raw), out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    capsys.readouterr()
    prepare.run(config(raw), out)
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "up to date" in capsys.readouterr().err


def test_other_settings_or_text_need_overwrite(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "gold"
    prepare.run(config(raw), out)
    with pytest.raises(ConflictError, match=r"vocabulary\.size: 330 -> 320"):
        prepare.run(config(raw, vocabulary={"size": 320}), out)
    write(raw, "test", pairs(12, 4))
    with pytest.raises(ConflictError, match=r"test\.source"):
        prepare.run(config(raw), out)
    before = read_manifest(out / "train").digest()
    prepare.run(config(raw), out, overwrite=True)
    assert read_manifest(out / "train").digest() == before  # the training corpus has not changed with the test text


class Killed(BaseException):
    """Stands for a process that ends at once."""


@pytest.mark.parametrize("event", ["os.rename", "os.mkdir", "os.remove", "shutil.rmtree"])
def test_resuming_gives_the_same_bytes(raw: Path, tmp_path: Path, event: str) -> None:
    """A run is ended before each such change of the file system in turn."""
    (raw / "accepted").write_text('["x"]\n' * 12)
    settings = config(raw, test={"source": raw / "test.src", "target": raw / "test.tgt", "accepted": raw / "accepted"})
    prepare.run(settings, tmp_path / "whole")
    for moment in itertools.count(1):
        left = moment

        def die(path: Any, *_: object) -> None:
            nonlocal left
            if not Path(path).name.startswith(".lock"):  # a process that ends drops its locks
                left -= 1
                if not left:
                    raise Killed

        out = tmp_path / f"out{moment}"
        try:
            with before(event, die):
                prepare.run(settings, out)
        except Killed:
            prepare.run(settings, out)
            assert contents(out) == contents(tmp_path / "whole")
        else:
            break  # there are not that many
    assert moment > 1


def _run_and_die(settings: PrepareConfig, out: Path) -> None:
    def die(_: object, target: Any, *__: object) -> None:
        if Path(target).name == "shard-00002.arrow":
            os.kill(os.getpid(), signal.SIGKILL)

    with before("os.rename", die):
        prepare.run(settings, out)


def test_resuming_after_sigkill_writes_only_what_is_missing(raw: Path, tmp_path: Path) -> None:
    settings, out = config(raw), tmp_path / "gold"
    with placed(".arrow") as everything:
        prepare.run(settings, tmp_path / "whole")
    process = multiprocessing.get_context("fork").Process(target=_run_and_die, args=(settings, out))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    with placed(".arrow") as written:
        prepare.run(settings, out)
    assert written == everything[2:]
    assert contents(out) == contents(tmp_path / "whole")


def test_a_damaged_shard_of_an_interrupted_run_is_written_again(raw: Path, tmp_path: Path) -> None:
    settings, out = config(raw), tmp_path / "gold"
    prepare.run(settings, tmp_path / "whole")
    with interrupted_before("manifest.json"), pytest.raises(KeyboardInterrupt):
        prepare.run(settings, out)
    shard = out / "train" / "shard-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:500])
    prepare.run(settings, out)
    assert contents(out) == contents(tmp_path / "whole")


def test_accepted_translations_are_copied_as_given(raw: Path, tmp_path: Path) -> None:
    accepted = [[f"\uff4f\uff4e\uff45  {row}", f"two ä{row}"] for row in range(12)]
    text = "\ufeff" + "".join(json.dumps(texts) + "\n" for texts in accepted)
    (raw / "accepted.xz").write_bytes(lzma.compress(text.encode()))
    out = tmp_path / "gold"
    test = {"source": raw / "test.src", "target": raw / "test.tgt", "accepted": raw / "accepted.xz"}
    prepare.run(config(raw, test=test), out)
    assert [json.loads(line) for line in (out / "test.accepted.jsonl").read_text().splitlines()] == accepted


def test_validation_and_test_text_are_as_given_beside_normalised_ids(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [("\uff21  b", "\uff43\u00bd"), ("plain", "text"), ("same", " blanks  only ")]
    write(raw, "test", given)
    write(raw, "valid", given[:2])
    out = tmp_path / "gold"
    prepare.run(config(raw), out)
    vocabulary = Vocabulary.load(out / "vocab.model")
    table = Corpus.open(out / "test").take(np.arange(3), ["source", "target", "source_ids", "target_ids"])
    assert list(zip(table["source"].to_pylist(), table["target"].to_pylist(), strict=True)) == given
    assert vocabulary.decode(table["source_ids"].to_pylist()) == ["A b", "plain", "same"]
    assert vocabulary.decode(table["target_ids"].to_pylist()) == ["c1\u20442", "text", "blanks only"]
    assert read_manifest(out / "test").extra["targets_changed_by_normalization"] == 1
    told = "normalisation (nmt_nfkc) changes 1 of 2 valid targets and 1 of 3 test targets"
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("rules", ["nfkc", "nfc", "identity"])
def test_normalisation_is_a_choice_that_the_vocabulary_carries(raw: Path, tmp_path: Path, rules: Normalization) -> None:
    rows = pairs(250, 1)
    rows[0] = ("\uff21 one", "\u06a9\u200c\u06cc e\u0301")
    write(raw, "train", rows)
    prepare.run(config(raw, vocabulary={"size": 340, "normalization": rules}), tmp_path / "gold")
    table = Corpus.open(tmp_path / "gold" / "train").take(np.arange(1), ["source", "target", "target_ids"])
    normalizer = Normalizer(rules)
    assert (table["source"][0].as_py(), table["target"][0].as_py()) == tuple(map(normalizer, rows[0]))
    assert "\u200c" in table["target"][0].as_py()
    manifest = read_manifest(tmp_path / "gold")
    assert manifest.extra["normalization"] == manifest.fingerprint["config"]["vocabulary"]["normalization"] == rules
    # A vocabulary that is brought along normalises other text in its own way.
    prepare.run(config(raw, vocabulary_from=tmp_path / "gold"), tmp_path / "other")
    again = Corpus.open(tmp_path / "other" / "train").take(np.arange(1), ["source", "target", "target_ids"])
    assert again.to_pylist() == table.to_pylist()


def test_a_vocabulary_with_a_map_is_brought_along(raw: Path, tmp_path: Path) -> None:
    """Text is encoded with the prefix of each side, and the folder keeps all files."""
    prepare.run(config(raw), tmp_path / "gold")
    own = Vocabulary.load(tmp_path / "gold" / VOCABULARY)
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / VOCABULARY).write_bytes(own.path.read_bytes())
    for name, code in ((SOURCE_MAP, "<de>"), (MAP, "<en>")):
        made = PieceMap(pieces=(*own.pieces()[:4], "<de>", "<en>", *own.pieces()[4:]), silent=(code,), prefix=(code,))
        (tmp_path / "given" / name).write_bytes(made.to_bytes())
    prepare.run(config(raw, vocabulary_from=tmp_path / "given"), tmp_path / "other")
    given = Vocabularies.load(tmp_path / "given")
    assert Vocabularies.load(tmp_path / "other").digests() == given.digests()
    first, table = (
        Corpus.open(tmp_path / name / "train").take(np.arange(3), ["source_ids", "target_ids"]).to_pylist()
        for name in ("gold", "other")
    )
    for plain, mapped in zip(first, table, strict=True):
        assert mapped["source_ids"] == [4, *(index + 2 for index in plain["source_ids"])]
        assert mapped["target_ids"] == [5, *(index + 2 for index in plain["target_ids"])]
    assert verify(tmp_path / "other").problems == []
    (tmp_path / "other" / MAP).write_bytes((tmp_path / "other" / SOURCE_MAP).read_bytes())
    assert str(tmp_path / "other" / MAP) in verify(tmp_path / "other").problems[0]


def test_defaults_of_later_options_leave_no_mark_in_the_fingerprint(raw: Path, tmp_path: Path) -> None:
    prepare.run(config(raw), tmp_path / "gold")
    assert read_manifest(tmp_path / "gold").fingerprint["config"]["vocabulary"] == {"size": 330}


def test_a_source_that_holds_the_text_of_a_tag_does_not_get_its_id(raw: Path, tmp_path: Path) -> None:
    rows = pairs(250, 1)
    rows[0] = ("<bt> a source", "a target")
    write(raw, "train", rows)
    prepare.run(config(raw, vocabulary={"size": 330, "tags": ["<bt>"]}), tmp_path / "gold")
    vocabulary = Vocabulary.load(tmp_path / "gold" / "vocab.model")
    table = Corpus.open(tmp_path / "gold" / "train").take(np.arange(1), ["source", "source_ids"])
    assert table["source"][0].as_py() == rows[0][0]
    assert vocabulary.id_of("<bt>") not in table["source_ids"][0].as_py()
    # Tags were symbols once; folders made then are up to date.
    assert read_manifest(tmp_path / "gold").fingerprint["config"]["vocabulary"]["symbols"] == ["<bt>"]


def chinese(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Targets of two characters a word, without blanks."""
    return [
        (
            source,
            "".join(chr(0x4E00 + WORDS.index(word) // 12) + chr(0x5000 + WORDS.index(word) % 12) for word in words),
        )
        for source, target in rows
        for words in [target.split()]
    ]


@pytest.mark.parametrize("languages", [{}, {"source_language": "en", "target_language": "zh"}])
def test_text_without_blanks_stays_and_is_counted_in_characters(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], languages: dict[str, str]
) -> None:
    rows = chinese([(f"{a} {b} {c}", d) for (a, b), (c, d) in zip(pairs(250, 1), pairs(250, 2), strict=True)])
    rows[3] = (rows[3][0], rows[3][1] * 90)  # far more characters than 250
    rows[4] = (rows[4][0], "\u4e00")
    write(raw, "train", rows)
    for part in ("valid", "test"):
        write(raw, part, chinese(pairs(12, 3)))
    prepare.run(config(raw, cleaning={"max_ratio": 4.0}, vocabulary={"size": 360}, **languages), tmp_path / "gold")
    lines = (tmp_path / "gold" / "rejected.tsv").read_text().splitlines()
    assert lines[1:] == ["4\ttoo long", "5\tlength ratio"]
    manifest = read_manifest(tmp_path / "gold")
    assert {**manifest.extra["lengths"], "usual_ratio": 0} == {
        "source": "words",
        "target": "characters",
        "usual_ratio": 0,
    }
    assert {name: manifest.extra[name] for name in languages} == languages
    assert {name: manifest.fingerprint["config"][name] for name in languages} == languages
    assert read_manifest(tmp_path / "gold" / "test").extra.get("target_language") == languages.get("target_language")
    told = capsys.readouterr().err
    assert "lengths of target are counted in characters" in told
    assert ("data.target_language" in told) == (not languages)


def test_sides_in_another_language_are_left_out(raw: Path, tmp_path: Path) -> None:
    german, english = "Die Kinder spielen heute im Garten.", "The children are playing in the garden today."
    rows = [(source, f"{english} Number {number}.") for number, (source, _) in enumerate(pairs(250, 1))]
    rows[2] = (rows[2][0], german)
    write(raw, "train", rows)
    cleaning, known = {"language": True}, {"target_language": "en"}
    with pytest.raises(ConfigError, match="give at least one of them"):
        config(raw, cleaning=cleaning)
    prepare.run(config(raw, cleaning=cleaning, **known), tmp_path / "gold")
    manifest = read_manifest(tmp_path / "gold")
    counts = {name: count for name, count in manifest.counts.items() if count and "language" in name}
    assert counts == {"target in another language": 1}
    assert "3\ttarget in another language" in (tmp_path / "gold" / "rejected.tsv").read_text()
    assert manifest.extra["py3langid"] == version("py3langid")


def test_languages_are_codes(raw: Path) -> None:
    for code in ("jp", "CN", "english", "z", "zh Hans"):
        with pytest.raises(InputError, match="target_language"):
            config(raw, target_language=code)
    assert config(raw, target_language="zh_Hant").target_language == "zh_Hant"


def test_texts_of_a_vocabulary_with_marks_are_joined_beside_ids_of_the_segmented_text(
    raw: Path, tmp_path: Path
) -> None:
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "vocab.model").write_bytes(word_vocabulary(["the", "do@@", "gs", "a", "hund"]).model)
    rows = [("the hund", "the do@@ gs"), ("hund", "do@@ gs"), ("a", "a do@@ gs")]
    for part in ("train", "valid", "test"):
        write(raw, part, rows)
    prepare.run(config(raw, vocabulary_from=tmp_path / "words"), tmp_path / "gold")
    vocabulary = Vocabulary.load(tmp_path / "words" / "vocab.model")
    for part in ("train", "test"):
        table = Corpus.open(tmp_path / "gold" / part).take(np.arange(3), ["target", "target_ids"])
        assert table["target"].to_pylist() == ["the dogs", "dogs", "a dogs"]
        assert table["target_ids"].to_pylist() == vocabulary.encode([target for _, target in rows])
        assert vocabulary.decode(table["target_ids"].to_pylist()) == table["target"].to_pylist()
    assert "targets_changed_by_normalization" not in read_manifest(tmp_path / "gold" / "test").extra


def test_unknown_pieces_are_counted_and_told(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pairs(250, 1)
    for row in (3, 4, 5):
        rows[row] = (rows[row][0], f"{rows[row][1]} {chr(0x4E00 + row)}")
    write(raw, "train", rows)
    write(raw, "valid", pairs(5, 2))
    write(raw, "test", [("\u4e00", "a"), ("a", "b")])
    settings = {"size": 60, "byte_fallback": False, "character_coverage": 0.99}
    prepare.run(config(raw, vocabulary=settings), tmp_path / "gold")
    assert read_manifest(tmp_path / "gold" / "train").extra["unknown_rows"] == {"target": 3}
    assert read_manifest(tmp_path / "gold" / "test").extra["unknown_rows"]["source"] == 1
    assert "unknown_rows" not in read_manifest(tmp_path / "gold" / "valid").extra
    told = capsys.readouterr().err
    assert "1.2% of train targets, 50.0% of test sources contain pieces that the vocabulary does not have" in told
    assert "byte_fallback = true" in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('["a"]\n' * 11, "11 rows for 12"),
        ('["a"]\n' * 13, "13 rows for 12"),
        ('["a"]\n[]\n' + '["a"]\n' * 10, "line 2"),
        ('["a"]\n' * 11 + '"a"\n', "line 12"),
        ("a\n" * 12, "line 1"),
        (None, "no such file"),
        ('["a"]\n' * 3 + '["a", "\\ud83d"]\n' + '["a"]\n' * 8, "line 4: contains half of a surrogate pair"),
    ],
)
def test_accepted_translations_must_fit(raw: Path, tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (raw / "accepted").write_text(text)
    test = {"source": raw / "test.src", "target": raw / "test.tgt", "accepted": raw / "accepted"}
    with pytest.raises(TextError, match=message):
        prepare.run(config(raw, test=test), tmp_path / "gold")
    assert not (tmp_path / "gold").exists()


def test_accepted_translations_are_for_test_only(raw: Path, tmp_path: Path) -> None:
    valid = {"source": raw / "valid.src", "target": raw / "valid.tgt", "accepted": raw / "valid.src"}
    with pytest.raises(InputError, match="test text only"):
        prepare.run(config(raw, valid=valid), tmp_path / "gold")


def test_all_problems_of_the_input_at_once(raw: Path, tmp_path: Path) -> None:
    (raw / "train.src").unlink()
    (raw / "valid.tgt").write_bytes(b"one line\n")
    (raw / "test.src").write_bytes(b"\xff\n" * 12)
    with pytest.raises(InputError) as caught:
        prepare.run(config(raw), tmp_path / "gold")
    message = str(caught.value)
    assert message.startswith("3 problems")
    for part in ("train.src: no such file", "different numbers of lines", "and 7 more"):
        assert part in message
    assert not (tmp_path / "gold").exists()


def test_unreadable_rows_leave_train_but_stop_valid(raw: Path, tmp_path: Path) -> None:
    lines = (raw / "train.src").read_bytes().split(b"\n")
    lines[7] = b"caf\xe9 au lait"
    (raw / "train.src").write_bytes(b"\n".join(lines))
    prepare.run(config(raw), tmp_path / "gold")
    assert "8\tinvalid UTF-8" in (tmp_path / "gold" / "rejected.tsv").read_text().splitlines()
    assert read_manifest(tmp_path / "gold").counts["invalid UTF-8"] == 1
    (raw / "valid.src").write_bytes(b"\n" * 2 + b"caf\xe9\n" + b"\n" * 17)
    with pytest.raises(TextError, match=r"line 3 \(invalid UTF-8\)"):
        prepare.run(config(raw), tmp_path / "other")


def test_a_row_with_a_nul_byte_leaves_train_but_stops_valid(raw: Path, tmp_path: Path) -> None:
    lines = (raw / "train.tgt").read_bytes().split(b"\n")
    lines[7] = b"one\0two"
    (raw / "train.tgt").write_bytes(b"\n".join(lines))
    prepare.run(config(raw), tmp_path / "gold")
    assert "8\tNUL byte" in (tmp_path / "gold" / "rejected.tsv").read_text().splitlines()
    assert read_manifest(tmp_path / "gold").counts["NUL byte"] == 1
    (raw / "valid.src").write_bytes(b"a\n" * 2 + b"b\0\n" + b"c\n" * 17)
    with pytest.raises(TextError, match=r"line 3 \(NUL byte\)"):
        prepare.run(config(raw), tmp_path / "other")


def test_nothing_left_after_cleaning(raw: Path, tmp_path: Path) -> None:
    write(raw, "train", [("", "a"), ("b", ""), ("same", "same")])
    with pytest.raises(InputError, match="no training pair is left after cleaning") as caught:
        prepare.run(config(raw), tmp_path / "gold")
    assert "2 empty side, 1 identical sides" in str(caught.value)


@pytest.mark.parametrize("joint", [True, False])
def test_a_vocabulary_too_large_is_told_and_can_be_corrected(raw: Path, tmp_path: Path, joint: bool) -> None:
    with pytest.raises(InputError, match=r"size = \d+ or less"):
        prepare.run(config(raw, vocabulary={"size": 200_000, "joint": joint}), tmp_path / "gold")
    assert list((tmp_path / "gold").iterdir()) == []
    prepare.run(config(raw), tmp_path / "gold")


@pytest.mark.parametrize("size", [3_000, 20_000])
def test_a_full_disk_is_an_error_of_work(raw: Path, tmp_path: Path, size: int) -> None:
    with largest_file(size), pytest.raises(WorkError, match="File too large"):
        prepare.run(config(raw), tmp_path / "gold")
