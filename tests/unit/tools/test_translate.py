"""`seqkd translate` and `seqkd score` on a small model with random weights."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar, TextIO, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkd.cli.main import main
from seqkd.errors import InputError, ModelError, TextError
from seqkd.models.checkpoint import load_model, save_model
from seqkd.models.registry import build
from seqkd.search import BeamSettings
from seqkd.search.cpu.weights import available
from seqkd.search.loading import load_team
from seqkd.text.vocabulary import Vocabulary
from seqkd.tools.score import score_files
from seqkd.tools.translate import CHUNK_LINES, Translation, Translator, read_chunks, translate_lines
from tests.properties import examples
from tests.unit.stages.support import write_echo

WORDS = ["a", "big", "small", "dog", "cat", "sees", "runs", "red", "house", "the"]
SENTENCES = [" ".join(WORDS[(row * step) % len(WORDS)] for step in range(1, 6)) for row in range(1, 40)]

Score = Callable[[str, str], list[tuple[float, int]]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    vocabulary = folder / "trained.model"
    Vocabulary.train(
        iter(SENTENCES),
        vocabulary,
        size=26,
        type="unigram",
        byte_fallback=False,
        character_coverage=1.0,
        symbols=(),
        seed=1,
    )
    return _saved(folder, vocabulary, heads=2)


def _saved(folder: Path, vocabulary: Path, *, heads: int) -> Path:
    size = Vocabulary.load(vocabulary).size
    settings: dict[str, Any] = {
        "dim": 16,
        "heads": heads,
        "ffn_dim": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "dropout": 0.0,
        "norm": "pre",
        "positions": "sinusoidal",
        "activation": "relu",
        "embeddings": "shared",
        "max_positions": 32,
    }
    torch.manual_seed(0)
    network = build("transformer", settings, source_vocab=size, target_vocab=size)
    save_model(folder, network, arch="transformer", settings=settings, vocab=vocabulary)
    return folder


def load(model: Path, prefix: Sequence[str] = (), **options: Any) -> Translator:
    team = load_team([model], device="cpu", precision="float32")
    return Translator(team, BeamSettings(**{"beam": 3, **options}), prefix=prefix, batch_tokens=200)


def translated(translator: Translator, text: bytes, *, as_json: bool = False, lines_at_most: int = CHUNK_LINES) -> str:
    out = io.BytesIO()
    with stdin(text) as file:
        chunks = read_chunks(file.fileno(), lines_at_most=lines_at_most)
        translate_lines(translator, chunks, out, as_json=as_json)
    return out.getvalue().decode()


def stdin(text: bytes) -> TextIO:
    """A file to stand for stdin."""
    file = tempfile.TemporaryFile("w+")  # noqa: SIM115
    file.buffer.write(text)
    file.seek(0)
    return file


@pytest.fixture
def score(model: Path, tmp_path: Path) -> Score:
    def run(source: str, target: str) -> list[tuple[float, int]]:
        (tmp_path / "s").write_text(source, encoding="utf-8")
        (tmp_path / "t").write_text(target, encoding="utf-8")
        out = io.BytesIO()
        score_files([model], tmp_path / "s", tmp_path / "t", out, device="cpu", precision="float32", batch_tokens=100)
        rows = [line.split("\t") for line in out.getvalue().decode().splitlines()]
        return [(float(logprob), int(tokens)) for logprob, tokens in rows]

    return run


def test_lines_come_out_in_the_order_they_went_in(model: Path) -> None:
    translator = load(model)
    lines = [SENTENCES[(7 * row) % len(SENTENCES)] for row in range(50)]
    alone = {line: translated(translator, f"{line}\n".encode()) for line in SENTENCES}
    assert len(set(alone.values())) > 3
    text = "".join(f"{line}\n" for line in lines).encode()
    assert translated(translator, text, lines_at_most=16) == "".join(alone[line] for line in lines)


def test_empty_lines_stay_empty(model: Path) -> None:
    lines = translated(load(model), b"\na dog\n   \nthe cat").split("\n")
    assert [bool(line) for line in lines] == [False, True, False, True, False]
    assert translated(load(model), b"") == ""


def test_only_line_feeds_end_lines(model: Path) -> None:
    assert translated(load(model), "a\u2028dog\x0c\x85 runs\r\nthe cat\r\n".encode()).count("\n") == 2


def test_nbest_lines_are_numbered_and_best_first(model: Path) -> None:
    rows = [line.split(" ||| ") for line in translated(load(model, nbest=3), b"a dog\nthe cat\n").splitlines()]
    assert [row[0] for row in rows] == ["0", "0", "0", "1", "1", "1"]
    scores = [float(row[2]) for row in rows]
    assert scores[:3] == sorted(scores[:3], reverse=True)
    assert rows[0][1] == translated(load(model), b"a dog\n").rstrip("\n")


def test_json_holds_each_line_and_its_translations(model: Path) -> None:
    rows = [
        json.loads(line) for line in translated(load(model, nbest=2), "a dög\n\n".encode(), as_json=True).splitlines()
    ]
    assert [(row["line"], row["source"], len(row["translations"])) for row in rows] == [(0, "a dög", 2), (1, "", 2)]
    assert set(rows[0]["translations"][0]) == {"text", "score", "logprob", "ended"}


def test_a_program_gets_each_answer_before_its_next_question(model: Path) -> None:
    questions, ours = os.pipe()
    theirs, answers = os.pipe()

    def work() -> None:
        with os.fdopen(answers, "wb") as out:
            translate_lines(load(model), read_chunks(questions), out, as_json=False)

    worker = Thread(target=work, daemon=True)
    worker.start()
    with os.fdopen(theirs, "rb") as said:
        found = []
        for _ in range(20):
            os.write(ours, b"a dog\nthe cat\na ho")  # the rest of the third line comes with the next question
            os.write(ours, b"use\n")
            found.append([said.readline() for _ in range(3)])
        os.write(ours, b"the red house")  # no line feed: translated at the end
        os.close(ours)
        last = said.read()
    worker.join()
    expected = translated(load(model), b"a dog\nthe cat\na house\nthe red house\n").encode().splitlines(keepends=True)
    assert found == [expected[:3]] * 20
    assert last == expected[3]


def test_lines_without_a_pause_come_in_full_chunks() -> None:
    lines = [b"line %d" % number for number in range(5500)]
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb") as file:
            file.writelines(line + b"\n" for line in lines)

    thread = Thread(target=write, daemon=True)
    thread.start()
    # The waits are long because the writer may be slow on a loaded machine.
    chunks = list(read_chunks(reader, lines_at_most=1000, pause=600.0, longest_wait=600.0))
    thread.join()
    assert [line for chunk in chunks for line in chunk] == lines
    assert [len(chunk) for chunk in chunks] == [1000] * 5 + [500]


def test_a_stream_that_never_pauses_is_not_held_for_ever() -> None:
    reader, writer = os.pipe()
    chunks = read_chunks(reader, pause=600.0, longest_wait=0.1)
    os.write(writer, b"one\ntwo\nthr")
    assert next(chunks) == [b"one", b"two"]
    os.write(writer, b"ee\n")
    assert next(chunks) == [b"three"]
    os.close(writer)
    assert list(chunks) == []


@pytest.mark.parametrize("block", [1, 2, 7, 65536])
@given(text=st.binary(max_size=60), size=st.integers(1, 4))
@examples(50)
def test_lines_arrive_whole_whatever_is_read_at_a_time(block: int, text: bytes, size: int) -> None:
    with stdin(text) as file:
        chunks = list(read_chunks(file.fileno(), lines_at_most=size, block_bytes=block))
    expected = text.split(b"\n")
    assert [line for chunk in chunks for line in chunk] == (expected if expected[-1] else expected[:-1])
    assert all(1 <= len(chunk) <= size for chunk in chunks)


def test_blank_lines_have_k_entries(model: Path) -> None:
    rows = [line.split(" ||| ") for line in translated(load(model, nbest=3), b"\na dog\n  \n").splitlines()]
    assert [row[0] for row in rows] == ["0"] * 3 + ["1"] * 3 + ["2"] * 3
    assert {row[1] for row in rows if row[0] != "1"} == {""}


def test_separators_within_a_text_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    class Piped:
        """Writes what nobody can tell from the fields of a k-best list."""

        settings = BeamSettings(beam=2, nbest=2)
        too_long: ClassVar[list[int]] = []
        retried: ClassVar[list[int]] = []

        def __call__(self, texts: Sequence[str], *, first_row: int = 0) -> list[list[Translation]]:  # noqa: ARG002
            return [[Translation("a ||| b", -1.0, -2.0, "eos"), Translation("||||", -3.0, -4.0, "eos")] for _ in texts]

    out = io.BytesIO()
    piped = cast(Translator, Piped())
    translate_lines(piped, [[b"x"]], out, as_json=False)
    rows = [line.split("|||") for line in out.getvalue().decode().splitlines()]
    bar = "&#124;"
    assert [row[1].strip() for row in rows] == [f"a {3 * bar} b", f"{3 * bar}|"]
    assert [float(row[2]) for row in rows] == [-1.0, -3.0]
    assert "||| within 2 translations is written &#124;&#124;&#124;; --json" in capsys.readouterr().err
    translate_lines(piped, [[b"x"]], out := io.BytesIO(), as_json=True)
    assert [found["text"] for found in json.loads(out.getvalue())["translations"]] == ["a ||| b", "||||"]


def test_compressed_input_is_told_its_format(model: Path) -> None:
    with pytest.raises(TextError, match=r"stdin: holds gzip data[^$]*zcat"):
        translated(load(model), gzip.compress(b"a dog\n"))


def test_a_byte_order_mark_is_no_word(model: Path) -> None:
    marked = translated(load(model), "\ufeffa dog\n".encode(), as_json=True)
    assert marked == translated(load(model), b"a dog\n", as_json=True)


def test_a_line_that_is_not_utf8_is_named(model: Path) -> None:
    with pytest.raises(TextError, match="line 2"):
        translated(load(model), b"a dog\n\xff\n")


def test_a_line_that_is_too_long_is_not_translated_and_said(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = f"a dog\n{' '.join(['house'] * 60)}\nthe cat\n".encode()
    first, second, third = translated(load(model), text).splitlines()
    assert first
    assert not second
    assert third
    assert "line 2 is longer than the model's positions and was not translated" in capsys.readouterr().err
    found = [json.loads(line)["translations"] for line in translated(load(model), text, as_json=True).splitlines()]
    assert [len(translations) for translations in found] == [1, 0, 1]
    numbers = [line.split(" ||| ")[0] for line in translated(load(model, nbest=2), text).splitlines()]
    assert numbers == ["0", "0", "2", "2"]


def test_every_translation_opens_with_the_prefix(model: Path) -> None:
    translator = load(model, ["h", "o"], nbest=3)
    for line in translated(translator, b"a dog\nthe cat\n").splitlines():
        assert line.split(" ||| ")[1].startswith("ho")
    with pytest.raises(InputError, match="'<2de>', which is not a piece"):
        load(model, ["<2de>"])


def test_a_line_has_its_own_samples_wherever_its_chunk_starts(model: Path) -> None:
    translator = load(model, sampling=True)
    whole = translated(translator, b"a dog\n" * 9)
    assert len(set(whole.splitlines())) > 1
    assert translated(translator, b"a dog\n" * 9, lines_at_most=4) == whole
    assert translated(load(model, sampling=True, seed=2), b"a dog\n" * 9) != whole


def test_int8_is_for_models_and_machines_that_have_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(folder: Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", stdin(b"a dog\nthe red house\n"))
        code = main(["translate", "--model", str(folder), "--device", "cpu", "--precision", "int8"])
        return code, *capfd.readouterr()

    # One head of 16 features fits the vector unit, two of 8 do not.
    code, out, err = run(_saved(tmp_path, model / "trained.model", heads=1))
    if available("int8"):
        assert (code, len(out.splitlines())) == (0, 2)
        code, out, err = run(model)
        assert f"{model}: the CPU engine has no int8 kernels for this model" in err
    else:
        assert "precision int8 needs a CPU with int8 products" in err
    assert (code, out) == (2, "")


@pytest.mark.skipif(not available("int8"), reason="this CPU has no int8 products")
def test_pairs_are_scored_in_int8(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s").write_text("a dog\nthe red house\n")
    (tmp_path / "t").write_text("ein hund\n\n")
    folder = _saved(tmp_path, model / "trained.model", heads=1)
    scored = []
    for precision in ("float32", "int8"):
        files = ["--source", str(tmp_path / "s"), "--target", str(tmp_path / "t")]
        assert main(["score", "--model", str(folder), "--device", "cpu", *files, "--precision", precision]) == 0
        scored.append([float(line.split("\t")[0]) for line in capfd.readouterr().out.splitlines()])
    assert scored[0] == pytest.approx(scored[1], abs=0.2)
    assert scored[0] != scored[1]


def test_options_of_the_command_reach_the_search(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def run(*words: str) -> tuple[int, list[str]]:
        monkeypatch.setattr("sys.stdin", stdin(b"a dog\nthe red house\n"))
        code = main(["translate", "--model", str(model), "--device", "cpu", "--precision", "float32", *words])
        return code, capfdbinary.readouterr().out.decode().splitlines()

    words = "--beam 4 --nbest 4 --normalization gnmt --stopping exact --max-length-ratio 0 --max-length-extra 5"
    words += " --min-length 1 --min-length-ratio 0.5 --prefix r --unk-penalty 2 --temperature 1.2"
    code, plain = run(*words.split(), "--diverse-groups", "2", "--diverse-strength", "0.9")
    assert code == 0
    assert len(plain) == 8
    assert all(line.split(" ||| ")[1].startswith("r") for line in plain)
    code, drawn = run(*words.split(), "--sampling", "--top-k", "9", "--top-p", "0.9", "--seed", "4")
    assert code == 0
    assert len(drawn) == 8
    assert drawn != plain
    assert run("--no-repeat-ngram-size", "1")[1] != run()[1]


@pytest.mark.parametrize(
    "words", ["--beam 2 --nbest 3", "--length-penalty nan", "--top-k 3", "--diverse-groups 2", "--temperature 0"]
)
def test_settings_that_do_not_fit_are_refused(model: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", "--model", str(model), "--device", "cpu", *words.split()]) == 2
    name = words.split()[-2].removeprefix("--").replace("-", "_")
    assert f"error: {name}" in capsys.readouterr().err


# --- models that write all positions at once ----------------------------------------------------------------------


@pytest.fixture
def student(model: Path, tmp_path: Path, echo: None) -> Path:  # noqa: ARG001
    return write_echo(tmp_path / "echo", model / "vocab.model")


def run_command(
    student: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, *words: str, command: str = "translate"
) -> int:
    monkeypatch.setattr("sys.stdin", stdin(text))
    return main([command, "--model", str(student), "--device", "cpu", *words])


def test_a_parallel_model_translates_lines_in_their_order(
    student: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = "".join(f"{line}\n" for line in ["a dog", "", "the big red house"]).encode()
    assert run_command(student, monkeypatch, text, "--iterations", "4") == 0
    assert capfdbinary.readouterr().out == text
    assert run_command(student, monkeypatch, text, "--nbest", "2") == 0
    rows = [line.split(" ||| ") for line in capfdbinary.readouterr().out.decode().splitlines()]
    assert [(row[0], float(row[2])) for row in rows] == [("0", 0), ("0", -1), ("1", 0), ("1", 0), ("2", 0), ("2", -1)]
    assert run_command(student, monkeypatch, text, "--nbest", "2", "--candidates", "3", "--json") == 0
    assert len(json.loads(capfdbinary.readouterr().out.splitlines()[0])["translations"]) == 2


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--beam 5", "--beam cannot be used: this model writes all positions at once"),
        ("--sampling --prefix a", "--sampling, --prefix cannot be used: this model writes all positions at once"),
        ("--nbest 3 --candidates 2", "nbest must be at most the 2 candidates"),
    ],
)
def test_options_of_beam_search_are_not_for_parallel_models(
    student: Path, words: str, problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(student, monkeypatch, b"a\n", *words.split()) == 2
    shown = capsys.readouterr()
    assert problem in shown.err
    assert shown.out == ""


def test_options_of_parallel_models_are_not_for_others(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(model, monkeypatch, b"a\n", "--candidates", "2") == 2
    assert "--candidates cannot be used: this model decodes left to right" in capsys.readouterr().err


def test_scores_and_ensembles_need_models_that_go_left_to_right(student: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a dog\n")
    texts = (tmp_path / "text", tmp_path / "text", io.BytesIO())
    with pytest.raises(ModelError, match="gives no left-to-right probabilities") as caught:
        score_files([student], *texts, device="cpu", precision="auto", batch_tokens=100)
    assert caught.value.where == str(student)
    with pytest.raises(ModelError, match="gives no left-to-right probabilities"):
        load_team([model, student], device="cpu", precision="auto", parallel=True)


# --- score --------------------------------------------------------------------------------------------------------


def test_a_score_is_the_sum_over_the_target_and_its_end(model: Path, score: Score) -> None:
    loaded = load_model(model)
    source, target = loaded.vocabularies.target.encode(["the red house", "a small dog"])
    eos = loaded.vocabularies.target.eos_id
    with torch.no_grad():
        logits = loaded.model(torch.tensor([[*source, eos]]), torch.tensor([[eos, *target]]))
    chosen = logits[0].log_softmax(dim=-1)[torch.arange(len(target) + 1), torch.tensor([*target, eos])]
    [(logprob, tokens)] = score("the red house\n", "a small dog\n")
    assert tokens == len(target) + 1
    assert logprob == pytest.approx(chosen.sum().item(), abs=1e-4)


def test_scores_do_not_depend_on_what_stands_beside(score: Score) -> None:
    together = score("a dog\nthe big red house\n\n", "the cat\na\nsmall\n")
    alone = [score("a dog\n", "the cat\n")[0], score("the big red house\n", "a\n")[0], score("\n", "small\n")[0]]
    assert [tokens for _, tokens in together] == [tokens for _, tokens in alone]
    for (ours, _), (theirs, _) in zip(together, alone, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)


def test_perplexity_is_said(score: Score, capsys: pytest.CaptureFixture[str]) -> None:
    rows = score("a dog\nthe cat\n", "the cat\na dog\n")
    total, tokens = sum(row[0] for row in rows), sum(row[1] for row in rows)
    each = f"{math.exp(-total / 12):.3f} for each of 12 characters"
    assert f"{tokens:,} tokens, perplexity {math.exp(-total / tokens):.3f}, {each}" in capsys.readouterr().err


def test_texts_that_do_not_line_up_are_refused(score: Score) -> None:
    with pytest.raises(TextError, match="different numbers of lines"):
        score("a dog\n", "the cat\na dog\n")


def test_a_pair_that_is_too_long_is_refused(score: Score) -> None:
    with pytest.raises(TextError, match="line 2"):
        score("a dog\na dog\n", f"a\n{'house ' * 60}\n")
