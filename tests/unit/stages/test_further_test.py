"""`seqkd prepare --test`, several references, and what `evaluate` makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

from seqkd.cli.main import main
from seqkd.config.stages import EvaluateConfig, FurtherTestConfig
from seqkd.config.toml import to_toml, validate
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import ConfigError, ConflictError, InputError
from seqkd.metrics.results import read_result
from seqkd.stages.evaluate import evaluate
from seqkd.stages.prepare import further_test, prepare
from seqkd.tools.verify import verify
from tests.unit.stages.support import prepare_config
from tests.unit.stages.teachers import make_teacher

SOURCES = ["der hund schläft", "alle  jagt katze", "vogel singt heute", "rot"]
REFERENCES = [
    ["the dog sleeps", "all  chases cat", "bird sings today", "red"],
    ["a dog is asleep", "the cat chases all", "today a bird sings", "red it is"],
    ["dog sleeps", "cat", "bird", "red red"],
]


def write_texts(folder: Path) -> None:
    for name, lines in (("more.de", SOURCES), *((f"more.en{n}", lines) for n, lines in enumerate(REFERENCES, 1))):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data whose own test text has two references, and a model."""
    root = tmp_path_factory.mktemp("further")
    config = prepare_config(root)
    write_texts(root)
    own = config.test.model_copy(update={"target": (root / "test.en", root / "second.en")})
    lines = (root / "test.en").read_text().splitlines()
    (root / "second.en").write_text("".join(f"{line} today\n" for line in lines))
    prepare.run(
        config.model_copy(update={"test": own, "source_language": "de", "target_language": "en"}), root / "gold"
    )
    make_teacher(root / "teacher", root / "gold" / "vocab.model")
    return root


def further(root: Path, references: int = 3, **text: Any) -> FurtherTestConfig:
    targets = [str(root / f"more.en{number}") for number in range(1, references + 1)]
    values = {"source": str(root / "more.de"), "target": targets, **text}
    return validate(FurtherTestConfig, {"text": values, "prepared": str(root / "gold"), "shard_rows": 3}, "test")


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for table in Corpus.open(folder, "corpus").tables() for row in table.to_pylist()]


def test_rows_hold_the_text_as_given_and_all_references(run: Path, tmp_path: Path) -> None:
    further_test.run(further(run), tmp_path / "more")
    rows = rows_of(tmp_path / "more")
    assert [row["id"] for row in rows] == [0, 1, 2, 3]
    assert [row["source"] for row in rows] == SOURCES
    assert [[row["target"], *row["further_references"]] for row in rows] == [
        list(texts) for texts in zip(*REFERENCES, strict=True)
    ]
    manifest, gold = read_manifest(tmp_path / "more"), read_manifest(run / "gold" / "test")
    assert len(manifest.shards) == 2
    assert manifest.vocabulary == gold.vocabulary
    names = ("source_language", "target_language", "references")
    assert [manifest.extra[name] for name in names] == ["de", "en", 3]
    assert set(manifest.fingerprint["inputs"]) == {
        "source", "target", "target2", "target3", "vocabulary", "source_vocabulary",
    }  # fmt: skip
    assert verify(tmp_path / "more", [run]).problems == []
    assert verify(tmp_path / "more", [run]).notes == []


def test_one_reference_leaves_no_mark_in_the_rows(run: Path, tmp_path: Path) -> None:
    further_test.run(further(run, references=1), tmp_path / "list")
    further_test.run(further(run, target=str(run / "more.en1")), tmp_path / "alone")
    assert "further_references" not in Corpus.open(tmp_path / "list").schema.names
    assert read_manifest(tmp_path / "list").digest() == read_manifest(tmp_path / "alone").digest()


def test_the_same_vocabulary_of_another_data_set_makes_nothing_again(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "more"
    further_test.run(further(run), out)
    made = read_manifest(out)
    further_test.run(further(run), out)
    assert f"prepare: {out} is up to date" in capsys.readouterr().err
    assert read_manifest(out) == made
    with pytest.raises(ConflictError, match=r"inputs\.target3: .* -> \(absent\)"):
        further_test.run(further(run, references=2), out)


def test_the_command_line_has_an_option_for_it(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config").mkdir()
    file = tmp_path / "config" / "more.toml"
    file.write_text(to_toml(further(run)))
    command = ["prepare", "--config", str(file), "--out", str(tmp_path / "more"), "--test"]
    assert main(command) == 0
    assert "4 rows for test with 3 references each" in capsys.readouterr().err
    assert main([*command, "--monolingual"]) == 2
    assert "give one of --monolingual, --test" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "more")]) == 0
    shown = capsys.readouterr().out
    assert "reference 3" in shown
    assert "the cat chases all" in shown


# --- what is refused ----------------------------------------------------------------------------------------------


def test_a_reference_with_another_number_of_lines_is_told_with_both_numbers(run: Path, tmp_path: Path) -> None:
    (tmp_path / "short").write_text("one\ntwo\n")
    (tmp_path / "bad").write_bytes(b"a\n\xff\nb\nc\n")
    targets = [str(run / "more.en1"), str(tmp_path / "short"), str(tmp_path / "bad"), str(tmp_path / "none")]
    with pytest.raises(InputError) as caught:
        further_test.run(further(run, target=targets), tmp_path / "out")
    message = str(caught.value)
    assert message.startswith("3 problems:")
    assert f"{run / 'more.de'} has 4, {tmp_path / 'short'} has 2" in message
    assert "line 2 (invalid UTF-8)" in message
    assert f"{tmp_path / 'none'}: no such file" in message
    assert not (tmp_path / "out").exists()


def test_an_empty_test_set_is_refused(run: Path, tmp_path: Path) -> None:
    for name in ("no.de", "no.en"):
        (tmp_path / name).touch()
    empty = further(run, source=str(tmp_path / "no.de"), target=[str(tmp_path / "no.en"), str(run / "more.en1")])
    with pytest.raises(InputError, match=r"no\.de: the corpus is empty"):
        further_test.run(empty, tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({}, "give either `source` and `target`, or `sacrebleu` and `langpair`"),
        ({"source": "a", "sacrebleu": "wmt14", "langpair": "en-de"}, "give either"),
        ({"sacrebleu": "wmt14"}, "go together"),
        ({"sacrebleu": "wmt14", "langpair": "en-de", "target": "b"}, "sacrebleu has its own references"),
        ({"source": "a", "target": []}, r"text\.target: .* at least 1 item"),
        ({"source": "a", "references": ["b"]}, r"text\.references: unknown key"),
    ],
)
def test_texts_that_cannot_be(text: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(FurtherTestConfig, {"text": text, "prepared": "p"}, "test")


# --- evaluation ---------------------------------------------------------------------------------------------------


def evaluation(run: Path, corpus: Path, **changes: Any) -> EvaluateConfig:
    values = {"name": "m", "model": run / "teacher", "role": "teacher", "corpus": corpus, "beams": (1, 2)}
    search = {"max_length_ratio": 1.0, "max_length_extra": 4}
    return EvaluateConfig.model_validate(
        {**values, "precision": "float32", "search": search, "timed": False, **changes}
    )


def test_metrics_see_all_references(run: Path, tmp_path: Path) -> None:
    further_test.run(further(run), tmp_path / "more")
    evaluate.run(evaluation(run, tmp_path / "more"), tmp_path / "out", device="cpu")
    result = read_result(tmp_path / "out")
    for beam in ("1", "2"):
        outputs = (tmp_path / "out" / f"hypotheses.beam{beam}.txt").read_text().splitlines()
        found = result.decodes[beam]
        assert found.bleu == sacrebleu.corpus_bleu(outputs, REFERENCES).score
        assert found.chrf == sacrebleu.corpus_chrf(outputs, REFERENCES).score
        assert found.ter == sacrebleu.corpus_ter(outputs, REFERENCES).score
        assert found.ter != sacrebleu.corpus_ter(outputs, REFERENCES[:1]).score
    for name in ("bleu", "chrf", "ter"):
        assert result.signatures[name].startswith("nrefs:3|")


def test_the_own_test_text_of_a_data_set_has_several_references_too(run: Path, tmp_path: Path) -> None:
    evaluate.run(evaluation(run, run / "gold" / "test"), tmp_path / "out", device="cpu")
    result = read_result(tmp_path / "out")
    outputs = (tmp_path / "out" / "hypotheses.beam1.txt").read_text().splitlines()
    references = [(run / name).read_text().splitlines() for name in ("test.en", "second.en")]
    assert result.decodes["1"].bleu == sacrebleu.corpus_bleu(outputs, references).score
    assert result.signatures["bleu"].startswith("nrefs:2|")


def test_accepted_translations_lie_in_the_folder(run: Path, tmp_path: Path) -> None:
    accepted = [[texts[0], "x"] for texts in zip(*REFERENCES, strict=True)]
    (tmp_path / "accepted").write_text("".join(json.dumps(texts) + "\n" for texts in accepted))
    further_test.run(further(run, accepted=str(tmp_path / "accepted")), tmp_path / "more")
    assert (tmp_path / "more" / "accepted.jsonl").is_file()
    evaluate.run(evaluation(run, tmp_path / "more"), tmp_path / "out", device="cpu")
    assert read_result(tmp_path / "out").decodes["1"].valid is not None
    assert "accepted" in read_manifest(tmp_path / "out").fingerprint["inputs"]


def test_without_timing_nothing_is_said_of_speed(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    further_test.run(further(run), tmp_path / "more")
    capsys.readouterr()
    evaluate.run(evaluation(run, tmp_path / "more"), tmp_path / "out", device="cpu")
    said = capsys.readouterr().err
    assert "evaluate: m on more, beam 2: BLEU" in said
    assert "sentences/s" not in said.replace("sentences/s,", "")  # progress counts sentences
    result = read_result(tmp_path / "out")
    assert (result.baseline, result.load) == (None, None)
    assert [(found.speed, found.speedup) for found in result.decodes.values()] == [(None, None)] * 2
    assert read_manifest(tmp_path / "out").fingerprint["config"]["timed"] is False
