"""`seqkd translate` and `seqkd score` on a small model with random weights."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkd.cli.main import main
from seqkd.errors import InputError, ModelError, TextError
from seqkd.models.checkpoint import load_model, save_model
from seqkd.models.registry import build
from seqkd.search import BeamSettings
from seqkd.search.cpu.weights import available
from seqkd.search.loading import load_team
from seqkd.text.vocabulary import Vocabulary
from seqkd.tools.score import score_files
from seqkd.tools.translate import Translator, translate_lines
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


def translated(translator: Translator, text: bytes, *, as_json: bool = False, one_by_one: bool = False) -> str:
    out = io.BytesIO()
    translate_lines(translator, io.BytesIO(text), out, as_json=as_json, one_by_one=one_by_one)
    return out.getvalue().decode()


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


def test_lines_come_out_in_the_order_they_went_in(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqkd.tools.translate.CHUNK_LINES", 16)
    translator = load(model)
    lines = [SENTENCES[(7 * row) % len(SENTENCES)] for row in range(50)]
    alone = {line: translated(translator, f"{line}\n".encode()) for line in SENTENCES}
    assert len(set(alone.values())) > 3
    assert translated(translator, "".join(f"{line}\n" for line in lines).encode()) == "".join(
        alone[line] for line in lines
    )


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
    assert [(row["line"], row["source"], len(row["translations"])) for row in rows] == [(0, "a dög", 2), (1, "", 1)]
    assert set(rows[0]["translations"][0]) == {"text", "score", "logprob", "ended"}


def test_a_reader_gets_each_answer_before_the_next_question(model: Path) -> None:
    out = io.BytesIO()
    sizes = []

    def typed() -> Any:
        for line in (b"a dog\n", b"the cat\n", b"a house\n"):
            sizes.append(out.getvalue().count(b"\n"))
            yield line

    translate_lines(load(model), typed(), out, as_json=False, one_by_one=True)
    assert sizes == [0, 1, 2]


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
    with pytest.raises(InputError, match="'<2de>', which is no piece"):
        load(model, ["<2de>"])


def test_a_line_has_its_own_samples_wherever_its_chunk_starts(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    translator = load(model, sampling=True)
    whole = translated(translator, b"a dog\n" * 9)
    assert len(set(whole.splitlines())) > 1
    monkeypatch.setattr("seqkd.tools.translate.CHUNK_LINES", 4)
    assert translated(translator, b"a dog\n" * 9) == whole
    assert translated(load(model, sampling=True, seed=2), b"a dog\n" * 9) != whole


def test_int8_is_for_models_and_machines_that_have_it(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(folder: Path) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a dog\nthe red house\n")))
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
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a dog\nthe red house\n")))
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
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    return main([command, "--model", str(student), "--device", "cpu", *words])


def test_a_parallel_model_translates_lines_in_their_order(
    student: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = "".join(f"{line}\n" for line in ["a dog", "", "the big red house"]).encode()
    assert run_command(student, monkeypatch, text, "--iterations", "4") == 0
    assert capfdbinary.readouterr().out == text
    assert run_command(student, monkeypatch, text, "--nbest", "2") == 0
    rows = [line.split(" ||| ") for line in capfdbinary.readouterr().out.decode().splitlines()]
    assert [(row[0], float(row[2])) for row in rows] == [("0", 0), ("0", -1), ("1", 0), ("2", 0), ("2", -1)]
    assert run_command(student, monkeypatch, text, "--nbest", "2", "--candidates", "3", "--json") == 0
    assert len(json.loads(capfdbinary.readouterr().out.splitlines()[0])["translations"]) == 2


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--beam 5", "--beam: for models that decode left to right"),
        ("--sampling --prefix a", "--sampling, --prefix: for models that decode left to right"),
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
    assert "--candidates: for models that write all positions at once" in capsys.readouterr().err


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
    assert f"{tokens:,} tokens, perplexity {math.exp(-total / tokens):.3f}" in capsys.readouterr().err


def test_texts_that_do_not_line_up_are_refused(score: Score) -> None:
    with pytest.raises(TextError, match="different numbers of lines"):
        score("a dog\n", "the cat\na dog\n")


def test_a_pair_that_is_too_long_is_refused(score: Score) -> None:
    with pytest.raises(TextError, match="line 2"):
        score("a dog\na dog\n", f"a\n{'house ' * 60}\n")
