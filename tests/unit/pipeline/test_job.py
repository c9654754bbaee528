"""The script that counts what a run needs."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from seqkd.config.stages import TrainConfig
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from tests.bench import job

ROOT = Path(__file__).parents[3]


def test_products_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    stages = plan_stages(read_pipeline(Path("pipelines/wmt14-en-de.toml")), Path("runs"))
    configs = {stage.name: stage.config for stage in stages if isinstance(stage.config, TrainConfig)}
    dim, inner, layers, vocab = 512, 2048, 6, 32_000
    encoder = layers * (4 * dim * dim + 2 * dim * inner)
    decoder = layers * (8 * dim * dim + 2 * dim * inner)
    teacher = 3 * 2 * (encoder + decoder + dim * vocab) * 25_000
    assert job.update_flops(configs["teacher"], vocab) == teacher
    # Two positions for each source token, and a pass more for glancing.
    ctc = 4 * 2 * (encoder + 2 * (decoder + dim * vocab)) * 65_536
    assert job.update_flops(configs["student.ctc-glat-gold"], vocab) == ctc


def test_the_replayed_search_takes_the_steps_that_its_outputs_need() -> None:
    small, large = (job.replay(400, tokens, beam=2) for tokens in (1_000, 8_000))
    for found in (small, large):
        assert 0.5 < found["alive"] < 1
        assert 0.9 < found["target_tokens"] / found["source_tokens"] < 1.2
        assert found["alive"] * found["steps"] * found["hypotheses_a_step"] == pytest.approx(
            800 * found["target_tokens"]
        )
    assert large["steps"] < small["steps"]
    assert job.decode_rate(400, large, (0.3, 0.3)) > job.decode_rate(400, small, (0.3, 0.3))
    assert job.decode_rate(400, large, (1.0, 0.0)) == pytest.approx(400 / large["steps"] / 1e-3)


def test_bytes_of_real_shards_are_those_of_their_columns(tmp_path: Path) -> None:
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 7))) for _ in range(60)]
    texts = [tmp_path / name for name in ("source", "target")]
    for path in texts:
        path.write_text("".join(" ".join(rng.choices(words, k=rng.randint(3, 9))) + "\n" for _ in range(300)))
    found = job.bytes_of(texts[0], texts[1], pieces=300)
    tokens = found["source_tokens"] + found["target_tokens"]
    columns = 8 + 4 * 4 + found["text_bytes"] + 4 * tokens  # id, offsets, text, pieces
    assert columns < found["gold"] < columns + 2048 / found["rows"] + 1
    assert found["gold"] < found["distilled"] < found["gold"] + 40
    assert found["kbest, 1"] < found["kbest, 5"] < 5 * found["kbest, 1"]
    # At least 5 bits for each probability, and at least what 16 of 300 pieces need by counting: 11 bytes a position.
    assert (10 + 11) * (found["target_tokens"] + 1) < found["soft targets, top 16"]
