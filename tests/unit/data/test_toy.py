from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from seqkd.metrics.languages import count_words, estimate_languages, measure_languages, split_words
from tests.events import largest_file
from tests.unit.data.conftest import DATA

Toy = dict[str, ModuleType]
SENTENCES = 150


@pytest.fixture(scope="module")
def samples(toy: Toy) -> list[tuple[Any, list[str]]]:
    """Sentences, each with all its translations."""
    rng = random.Random(7)
    sentences = [toy["grammar"].sample_sentence(rng) for _ in range(SENTENCES)]
    return [(sentence, list(toy["grammar"].translations(sentence))) for sentence in sentences]


def test_the_enumeration_has_no_duplicates_and_keeps_to_its_bound(
    toy: Toy, samples: list[tuple[Any, list[str]]]
) -> None:
    grammar = toy["grammar"]
    for sentence, texts in samples:
        assert len(set(texts)) == len(texts) == grammar.count(sentence) <= grammar.MOST_TRANSLATIONS <= 500
        assert len(texts) >= 3


def test_sampled_translations_are_members(toy: Toy, samples: list[tuple[Any, list[str]]]) -> None:
    rng = random.Random(8)
    for sentence, texts in samples:
        assert {toy["grammar"].sample_translation(sentence, rng) for _ in range(20)} <= set(texts)


def test_the_corpus_is_multimodal(toy: Toy, samples: list[tuple[Any, list[str]]]) -> None:
    rng = random.Random(9)
    drawn = [
        Counter(toy["grammar"].sample_translation(sentence, rng) for _ in range(30)).most_common(1)[0][1] / 30
        for sentence, _ in samples
    ]
    assert sum(drawn) / len(drawn) < 0.35  # the most frequent translation is far from being the only one
    assert sum(len(texts) for _, texts in samples) / len(samples) > 50


def test_parsing_reads_back_what_was_rendered(toy: Toy, samples: list[tuple[Any, list[str]]]) -> None:
    grammar = toy["grammar"]
    for sentence, _ in samples:
        assert grammar.parse(grammar.render(sentence)) == sentence


@pytest.mark.parametrize(
    "source",
    ["", "the", "the farmer sees", "the farmer sees the house house", "today today", "the house sees the farmer"],
)
def test_what_the_grammar_does_not_have(toy: Toy, source: str) -> None:
    assert toy["grammar"].parse(source) is None
    assert not toy["grammar"].is_valid(source, "")


def test_valid_means_a_member(toy: Toy, samples: list[tuple[Any, list[str]]]) -> None:
    grammar = toy["grammar"]
    for sentence, texts in samples[:30]:
        assert grammar.is_valid(grammar.render(sentence), texts[-1])
    first, second = samples[0], samples[1]
    assert not grammar.is_valid(grammar.render(first[0]), second[1][0])


def test_mutated_translations_are_rejected(toy: Toy, samples: list[tuple[Any, list[str]]]) -> None:
    rng = random.Random(10)
    for sentence, texts in samples:
        source = toy["grammar"].render(sentence)
        words = rng.choice(texts).split()
        place = rng.randrange(len(words))
        shorter = words[:place] + words[place + 1 :]
        longer = [*words[:place], words[place], *words[place:]]
        misspelt = [*words[:place], words[place] + "x", *words[place + 1 :]]
        for mutant in (shorter, longer, misspelt):
            assert not toy["grammar"].is_valid(source, " ".join(mutant))


def test_changing_the_gender_anywhere_is_rejected(toy: Toy, samples: list[tuple[Any, list[str]]]) -> None:
    lexicon = toy["lexicon"]
    agreeing = [*lexicon.ARTICLES.values(), lexicon.RELATIVES, lexicon.SUBJECT_PRONOUNS, lexicon.OBJECT_PRONOUNS]
    agreeing.append(lexicon.CLOSINGS)
    forms = {form: [other for other in table if other != form] for table in agreeing for form in table}
    tried = 0
    for sentence, texts in samples:
        for text in texts[:: max(1, len(texts) // 5)]:
            words = text.split()
            for place, word in enumerate(words):
                for other in forms.get(word, []):
                    tried += 1
                    mutant = " ".join([*words[:place], other, *words[place + 1 :]])
                    assert mutant not in texts, toy["grammar"].render(sentence)
    assert tried > 1000


def test_the_second_half_of_another_mode_is_rejected(samples: list[tuple[Any, list[str]]]) -> None:
    """What follows a choice depends on it: halves of translations that differ early do not fit together."""
    rng = random.Random(11)
    mixed = valid = 0
    for _, texts in samples:
        members = set(texts)
        for _ in range(20):
            left, right = rng.choice(texts).split(), rng.choice(texts).split()
            if len(left) != len(right):
                continue
            middle = len(left) // 2
            mixture = " ".join(left[:middle] + right[middle:])
            if left[:middle] != right[:middle] and left[middle:] != right[middle:]:
                mixed += 1
                valid += mixture in members
    assert mixed > 500
    assert valid / mixed < 0.25


def test_synonyms_of_a_noun_differ_in_gender(toy: Toy) -> None:
    for nouns in toy["lexicon"].NOUNS.values():
        assert len({noun.gender for noun in nouns}) == len(nouns)
    for verbs in toy["lexicon"].VERB_FORMS.values():
        assert len({(verb.particle, verb.marker) for verb in verbs}) == len(verbs)
    genders = Counter(noun.gender for nouns in toy["lexicon"].NOUNS.values() for noun in nouns)
    assert min(genders.values()) > 0.2 * genders.total()


def test_no_two_words_look_the_same(toy: Toy) -> None:
    lexicon = toy["lexicon"]
    words = [noun.word for nouns in lexicon.NOUNS.values() for noun in nouns]
    words += [verb.stem for verbs in lexicon.VERB_FORMS.values() for verb in verbs]
    words += [adjective.stem for adjectives in lexicon.ADJECTIVE_FORMS.values() for adjective in adjectives]
    words += [form for forms in lexicon.PREPOSITION_FORMS.values() for form in forms]
    words += [*lexicon.TIME_FORMS.values(), *lexicon.PARTICLES, *lexicon.MARKERS, lexicon.OPENING, lexicon.BOTH]
    words += [form for forms in lexicon.CONJUNCTION_FORMS.values() for form in forms]
    words += [*lexicon.RELATIVES, *lexicon.SUBJECT_PRONOUNS, *lexicon.OBJECT_PRONOUNS, *lexicon.CLOSINGS]
    words += [article for articles in lexicon.ARTICLES.values() for article in articles]
    assert [word for word, number in Counter(words).items() if number > 1] == []
    sources = [*lexicon.NOUNS, *lexicon.VERBS, *lexicon.ADJECTIVES, *lexicon.TIMES, *lexicon.PREPOSITIONS]
    sources += [*lexicon.DETERMINERS, *lexicon.CONJUNCTIONS, "that", "they", "it"]
    assert len(set(sources)) == len(sources)
    assert 100 <= len(sources) <= 200


def generate(out: Path, *arguments: str, hash_seed: str = "0") -> dict[str, bytes]:
    command = [sys.executable, str(DATA / "toy" / "generate.py"), "--out", str(out), *arguments]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_the_files_hold_what_they_promise(toy: Toy, tmp_path: Path) -> None:
    files = {name: text.decode().splitlines() for name, text in generate(tmp_path / "toy", "--rows", "300").items()}
    assert {name: len(lines) for name, lines in files.items()} == {
        "train.src": 300,
        "train.tgt": 300,
        "valid.src": 500,
        "valid.tgt": 500,
        "test.src": 500,
        "test.tgt": 500,
        "test.accepted.jsonl": 500,
    }
    sources = files["train.src"] + files["valid.src"] + files["test.src"]
    assert len(set(sources)) == len(sources)
    for target, line in zip(files["test.tgt"], files["test.accepted.jsonl"], strict=True):
        accepted = json.loads(line)
        assert target in accepted
        assert len(set(accepted)) == len(accepted)
    for source, target in list(zip(files["train.src"], files["train.tgt"], strict=True))[:50]:
        assert toy["grammar"].is_valid(source, target)


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first = generate(tmp_path / "a", "--rows", "200", "--seed", "3", hash_seed="1")
    again = generate(tmp_path / "b", "--rows", "200", "--seed", "3", hash_seed="2")
    more = generate(tmp_path / "c", "--rows", "250", "--seed", "3")
    other = generate(tmp_path / "d", "--rows", "200", "--seed", "4")
    assert first == again
    assert first["test.tgt"] != other["test.tgt"]
    assert {name for name in first if first[name] != more[name]} == {"train.src", "train.tgt"}
    assert more["train.src"].startswith(first["train.src"])


def test_the_corpus_does_not_change_unnoticed(tmp_path: Path) -> None:
    files = generate(tmp_path / "toy", "--rows", "100")
    digest = hashlib.sha256(b"".join(files[name] for name in sorted(files))).hexdigest()
    assert digest == "75936d0933fc798ef9d34d9eb9f12438c9e44c80746dcfe45c99098c13370d9c"


def test_bad_arguments(tmp_path: Path, toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        toy["generate"].main(["--out", str(tmp_path / "x"), "--rows", "0"])
    assert caught.value.code == 2
    assert "--rows must be at least 1" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert toy["generate"].main(["--out", str(tmp_path / "file"), "--rows", "5"]) == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("size", [10_000, 20_000])
def test_nothing_half_written_stays(tmp_path: Path, toy: Toy, size: int) -> None:
    with largest_file(size):
        assert toy["generate"].main(["--out", str(tmp_path), "--rows", "1000"]) == 1
    assert list(tmp_path.iterdir()) == []


def test_targets_without_blanks_are_the_same_ones(tmp_path: Path) -> None:
    plain = generate(tmp_path / "a", "--rows", "60", "--monolingual", "20")
    unsegmented = generate(tmp_path / "b", "--rows", "60", "--monolingual", "20", "--unsegmented")
    assert plain.keys() == unsegmented.keys()
    spelling: dict[str, str] = {}
    for name, text in unsegmented.items():
        if name.endswith(".src"):
            assert text == plain[name]
        elif name.endswith(".tgt"):
            for line, other in zip(text.decode().splitlines(), plain[name].decode().splitlines(), strict=True):
                assert all("\u4e00" <= character <= "\u9fff" for character in line)
                assert spelling.setdefault(line, other) == other  # no two texts are spelt alike
    accepted = [json.loads(line) for line in unsegmented["test.accepted.jsonl"].decode().splitlines()]
    others = [json.loads(line) for line in plain["test.accepted.jsonl"].decode().splitlines()]
    assert [len(set(texts)) for texts in accepted] == [len(texts) for texts in others]
    assert all(
        line in texts for line, texts in zip(unsegmented["test.tgt"].decode().splitlines(), accepted, strict=True)
    )


def test_lexicons_are_languages_of_their_own(tmp_path: Path, toy: Toy) -> None:
    toy["generate"].generate(tmp_path, 400, 1, lexicons=3)
    files = {path.name: path.read_text(encoding="utf-8").splitlines() for path in tmp_path.iterdir()}
    texts = [files[f"train.tgt{number}"] for number in (1, 2, 3)]
    words = [set(" ".join(lines).split()) for lines in texts]
    assert [first & second for first, second in combinations(words, 2)] == [toy["lexicon"].SHARED] * 3
    assert all(len(found) > 400 for found in words)
    for source, target in zip(files["train.src"][:50], texts[0], strict=False):
        assert toy["grammar"].is_valid(source, target)
    for name in ("test.tgt1", "test.tgt2", "test.tgt3"):
        for target, line in zip(files[name][:50], files["test.accepted.jsonl"], strict=False):
            assert target in json.loads(line)


def test_the_language_of_words_and_sentences_is_measured_as_it_is_known(toy: Toy) -> None:
    """A word that all languages share counts for about a third in each."""
    shared, respell, rng = toy["lexicon"].SHARED, toy["lexicon"].respell, random.Random(12)
    sentences = [toy["grammar"].sample_sentence(rng) for _ in range(2000)]
    texts = [
        [respell(toy["grammar"].sample_translation(sentence, rng), number) for sentence in sentences]
        for number in range(3)
    ]
    known = {str(number): [*text, *(respell(line, number) for line in texts[0])] for number, text in enumerate(texts)}
    languages = estimate_languages({name: count_words(lines) for name, lines in known.items()})

    def label(words: list[str], numbers: list[int]) -> list[float]:
        own = [number for word, number in zip(words, numbers, strict=True) if word not in shared]
        return [(own.count(number) + (len(words) - len(own)) / 3) / len(words) for number in range(3)]

    for number, text in enumerate(texts):
        mix = measure_languages(languages, text, points=200)
        assert mix is not None
        assert (mix.purity > 0.95, mix.switches < 0.06, mix.unknown) == (True, True, 0.0)
        for point, line in zip(mix.points, text[::10], strict=True):
            words = split_words(line)
            assert list(point) == pytest.approx(label(words, [number] * len(words)), abs=0.03)
    rows = [split_words(line) for line in texts[0][:300]]
    drawn = [[rng.randrange(3) for _ in words] for words in rows]
    mixed = [" ".join(map(respell, words, numbers)) for words, numbers in zip(rows, drawn, strict=True)]
    mix = measure_languages(languages, mixed, points=300)
    assert mix is not None
    for point, words, numbers in zip(mix.points, rows, drawn, strict=True):
        assert list(point) == pytest.approx(label(words, numbers), abs=0.03)
    assert mix.switches == pytest.approx(2 / 3, abs=0.03)
    assert all(share is not None and share < 0.7 for share in mix.bin_majorities)


def test_lexicons_are_for_the_plain_corpus(tmp_path: Path, toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in ((["4"], "must be 1 to 3"), (["2", "--unsegmented"], "is not for --monolingual")):
        with pytest.raises(SystemExit):
            toy["generate"].main(["--out", str(tmp_path / "x"), "--lexicons", *arguments])
        assert message in capsys.readouterr().err
