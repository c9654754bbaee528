"""The benchmark of the GPU engine runs, on a toy, where there is no GPU."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional

pytest.importorskip("triton")

from seqkd.search import BeamSearch, BeamSettings, Hypothesis
from seqkd.search.gpu.engine import GraphTransformer
from seqkd.search.plain.transformer import IncrementalTransformer
from tests.bench import gpu, gpu_ctranslate2, gpu_large, gpu_parts
from tests.unit.search.gpu.support import DEVICE
from tests.unit.search.support import tiny_model


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the peer")
def test_smoke(tmp_path: Path) -> None:
    command = [sys.executable, gpu.__file__, "--smoke", "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert result["variants"].keys() == {"engine", *gpu.NAMES}
    assert all(row["sentences_per_second"] > 0 for row in result["variants"].values())
    assert result["same_lists_float32"] == 1.0
    assert result["work"]["flops"] > 0
    assert result["hugging_face"]["sentences_per_second"] > 0
    assert result["microseconds"]["whole step"] > 0
    assert result["microseconds"]["the search's step, kernel"] > 0
    assert "sentences/s  engine\n" in done.stdout
    # Peers whose logits are rounded are told apart from the engine.
    assert "sentences/s  plain torch (IncrementalTransformer), float32 logits\n" in done.stdout
    assert "sentences/s  Hugging Face's Marian, float32 logits\n" in done.stdout
    if importlib.util.find_spec("ctranslate2") is not None:
        assert re.search(r"sentences/s  CTranslate2 [\d.]+, float32 logits\n", done.stdout)
    ways = [row["label"].split(", ")[:2] for row in result["large"]["rows"]]
    assert [row for row in ways if row[1] == "engine"] == [["2-best", "engine"], ["2 samples", "engine"]]
    assert all(row["sentences_per_second"] > 0 for row in result["large"]["rows"])


@pytest.mark.skipif(importlib.util.find_spec("ctranslate2") is None, reason="needs the peer")
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_ctranslate2_has_the_same_model(tmp_path: Path, norm: str) -> None:
    import ctranslate2

    model, source, target = tiny_model(norm=norm), [5, 9, 30, 7], [8, 8, 21]
    gpu_ctranslate2.write_folder(model, tmp_path)
    pieces = gpu_ctranslate2.names(model.target_vocab)
    translator = ctranslate2.Translator(str(tmp_path), compute_type="float32", intra_threads=1)
    texts = [[pieces[id_] for id_ in ids] for ids in (source, target)]
    theirs = translator.score_batch([texts[0]], [texts[1]])[0].log_probs
    with torch.inference_mode():
        logits = model(torch.tensor([[*source, model.eos_id]]), torch.tensor([[model.eos_id, *target]]))
    ours = -functional.cross_entropy(logits[0], torch.tensor([*target, model.eos_id]), reduction="none")
    assert theirs == pytest.approx(ours.tolist(), abs=1e-4)


def test_outputs_of_the_large_teacher_are_as_long_as_their_sources() -> None:
    scale = gpu_large.shape(gpu.SMOKE)
    engine = IncrementalTransformer(gpu_large.random_model(scale, torch.device("cpu"), torch.float32))
    sources = gpu.draw_sources(scale, 4, seed=5)
    for settings in gpu_large.ways(3).values():
        found = dict(BeamSearch([engine], settings).decode(sources, batch_tokens=64))
        assert all(len(h.ids) - len(source) in (0, 1) for row, source in sources for h in found[row])
    assert [settings.sampling for settings in gpu_large.ways(8).values()] == [False, True]


@pytest.mark.slow
def test_only_chosen_variants_are_measured(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    gpu.main(["--smoke", "--out", str(out), "--variants", "fused-output", "4-steps-behind"])
    result = json.loads(out.read_text())
    assert result["variants"].keys() == {"engine", "fused-output", "4-steps-behind"}
    assert result.keys() & {"hugging_face", "ctranslate2", "large"} == set()


def test_every_name_of_a_variant_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.variants(tiny_model(), gpu.SMOKE.ladder).keys() == {"engine", *gpu.NAMES}
    with pytest.raises(SystemExit):
        gpu.main(["--smoke", "--out", "gpu.json", "--variants", "without-luck"])
    assert "invalid choice: 'without-luck'" in capsys.readouterr().err


def test_hypotheses_have_different_ancestors_right_before_their_position() -> None:
    engine = GraphTransformer(tiny_model().to(DEVICE))
    with torch.inference_mode():
        state = engine.new_state(8, 4, 6, 20)
        frontier = engine.frontier(state, BeamSettings(beam=4))
        reset = gpu_parts.half_way(state.buffers, frontier, 10)
        ancestors = state.buffers.ancestors
        kept = ancestors.clone()
        assert set(ancestors.nonzero()[:, 2].tolist()) == {6, 7, 8, 9}
        assert ancestors.amax() == 3
        assert set(state.buffers.positions.tolist()) == {10}
        ancestors[..., :10] = 0
        reset()
    assert torch.equal(ancestors, kept)


def test_what_puts_a_part_back_is_not_in_its_time() -> None:
    done: list[float] = []

    def timer(function: Callable[[], object], _: torch.device) -> float:
        done.clear()
        function()
        return sum(done)

    part = gpu_parts.Part(function=lambda: done.append(2e-6), reset=lambda: done.append(30e-6))
    assert gpu_parts.microseconds(part, torch.device("cpu"), timer=timer) == pytest.approx(2)


def test_work_is_counted() -> None:
    scale = gpu.SMOKE
    sources = gpu.draw_sources(scale, 2, seed=1)
    found = {row: [Hypothesis(ids, 0.0, 0.0, "eos")] * scale.beam for row, ids in sources}
    once = gpu.work(scale, sources, found, 100)
    twice = gpu.work(scale, sources + [(row + 2, ids) for row, ids in sources], found | {
        row + 2: kbest for row, kbest in found.items()
    }, 100)  # fmt: skip
    assert twice["flops"] == pytest.approx(2 * once["flops"])
    assert twice["bytes"] == pytest.approx(2 * once["bytes"])
    # by hand, for one sentence of 2 tokens whose outputs have 2: 3 positions read, 3 steps
    one = gpu.work(scale, [(0, [5, 6])], {0: [Hypothesis([5, 6], 0.0, 0.0, "eos")]}, 3)
    encode = 2 * 3 * (6 * 16 * 16 + 2 * 16 * 16) + 4 * 16 * 3 * 3
    steps = 2 * (2 * 3 * (6 * 16 * 16 + 2 * 16 * 16 + 16 * 40) + 4 * 16 * (6 + 9))
    assert one["flops"] == encode + steps
    assert one["steps_a_sentence"] == 3
