"""The workers of docs/workers keep the contract. The packages that they import are replaced by stand-ins."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from seqkd.errors import WorkError
from seqkd.interop.asking.answers import Answer
from seqkd.interop.asking.asker import Asker
from seqkd.interop.workers import FilterSettings, Role, ScorerSettings, TeacherSettings

WORKERS = Path(__file__).parents[3] / "docs" / "workers"

COMET = """
import types
print("loading")
def download_model(name):
    assert name == "Unbabel/some-model"
    return "path"
def load_from_checkpoint(path):
    def predict(data, batch_size, gpus, progress_bar):
        print("predicting")
        return types.SimpleNamespace(scores=[len(one["mt"]) + 100 * len(one.get("ref", "")) for one in data])
    return types.SimpleNamespace(predict=predict)
"""

BICLEANER = """#!{python}
import sys
assert sys.argv[-3:] == ["-", "-", "some/model"]
for line in sys.stdin:
    source, target = line.rstrip("\\n").split("\\t")
    print("0" if source == target else "0.75")
"""

CTRANSLATE2 = """
import types
class Translator:
    def __init__(self, folder, device, inter_threads):
        assert folder == "models/ct2"
    def translate_batch(self, batch, beam_size, num_hypotheses, max_batch_size, batch_type, return_scores):
        made = [[pieces[:-1], pieces[:-1][::-1]][:num_hypotheses] for pieces in batch]
        return [types.SimpleNamespace(hypotheses=lists, scores=[-0.5, -0.75][:num_hypotheses]) for lists in made]
"""

SENTENCEPIECE = """
class SentencePieceProcessor:
    def __init__(self, model_file):
        self.side = model_file.rpartition("/")[2]
    def encode(self, text, out_type):
        assert self.side == "source.spm"
        return text.split()
    def decode(self, pieces):
        assert self.side == "target.spm"
        return " ".join(pieces)
"""


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    modules = {"comet": COMET, "ctranslate2": CTRANSLATE2, "sentencepiece": SENTENCEPIECE}
    for name, text in modules.items():
        (tmp_path / f"{name}.py").write_text(text)
    program = tmp_path / "bicleaner-ai-classify"
    program.write_text(BICLEANER.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def answers(folder: Path, settings: Any, role: Role, bodies: list[dict[str, Any]]) -> list[Answer]:
    asker = Asker(settings, role, folder)
    try:
        return asker.ask([asker.question(row, body) for row, body in enumerate(bodies)])
    finally:
        asker.close()


def command(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, str(WORKERS / name), *arguments)


def test_comet(stand_ins: Path) -> None:
    bodies = [{"source": "a", "reference": "b", "hypotheses": ["one", ""]}, {"source": "c", "hypotheses": ["three"]}]
    settings = ScorerSettings(command=command("comet_scorer.py", "Unbabel/some-model"))
    found = answers(stand_ins / "cache", settings, "scorer", bodies)
    assert found == [{"scores": [103.0, 100.0]}, {"scores": [5.0]}]


def test_bicleaner(stand_ins: Path) -> None:
    bodies = [{"source": "a\tb", "target": "c"}, {"source": "a", "target": "a"}]
    settings = FilterSettings(command=command("bicleaner_filter.py", "some/model", "0.5"), batch=2)
    reason = "low score of bicleaner"
    expected = [{"keep": True, "reason": reason}, {"keep": False, "reason": reason}]
    assert answers(stand_ins / "cache", settings, "filter", bodies) == expected


def test_ctranslate2(stand_ins: Path) -> None:
    settings = TeacherSettings(command=command("ctranslate2_teacher.py", "models/ct2", "2"), batch=2)
    found = answers(stand_ins / "cache", settings, "teacher", [{"source": "a b"}, {"source": "c"}, {"source": "d e"}])
    texts = [[(one["text"], one["score"]) for one in answer["hypotheses"]] for answer in found]
    assert texts == [[("a b", -0.5), ("b a", -0.75)], [("c", -0.5), ("c", -0.75)], [("d e", -0.5), ("e d", -0.75)]]


def test_a_program_that_translates_lines(tmp_path: Path) -> None:
    upper = tmp_path / "upper.py"
    upper.write_text(
        "import sys\nfor line in sys.stdin:\n    print('' if 'no' in line else line.strip().upper(), flush=True)\n"
    )
    settings = TeacherSettings(
        command=("{python}", str(WORKERS / "line_teacher.py"), "{python}", str(upper)), batch=500
    )
    long = "a sentence with a line\nbreak " * 40  # a request is larger than a pipe
    bodies = [{"source": f"{long}{row}"} for row in range(400)] + [{"source": "no answer"}]
    found = answers(tmp_path / "cache", settings, "teacher", bodies)
    texts = [[one["text"] for one in answer["hypotheses"]] for answer in found]
    assert texts == [*([" ".join(body["source"].split()).upper()] for body in bodies[:-1]), []]


def test_a_program_that_ends_early_is_a_failure(tmp_path: Path) -> None:
    words = ("{python}", "-c", "print('one', flush=True); input()")
    settings = TeacherSettings(command=("{python}", str(WORKERS / "line_teacher.py"), *words), batch=3)
    with pytest.raises(WorkError, match=r"row 1: the command ended with exit code 1"):
        answers(tmp_path / "cache", settings, "teacher", [{"source": "a"}, {"source": "b"}, {"source": "c"}])
