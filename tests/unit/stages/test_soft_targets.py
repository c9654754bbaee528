"""Soft targets on disk: what the teacher says, the same bytes however often interrupted, unbiased where sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import ConfigError, ConflictError, CorpusError, ModelError, WorkError
from seqkd.models.checkpoint import load_model
from seqkd.search.scoring import pad_rows
from seqkd.stages.distill import soft_targets
from seqkd.stages.prepare import prepare
from seqkd.training.soft import SoftTable
from tests.events import interrupted_before, placed
from tests.manifests import comparable
from tests.unit.stages.support import prepare_config
from tests.unit.stages.teachers import make_teacher, soft_config


@pytest.fixture(scope="module")
def teacher(prepared: Path) -> Path:
    return make_teacher(prepared.parent / "teacher", prepared / "vocab.model")


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: comparable(p) for p in folder.iterdir() if p.suffix in (".arrow", ".json", ".tsv")}


def probabilities(models: list[Path], row: dict[str, Any], temperature: float = 1.0) -> Tensor:
    """`[positions, vocab]`, the row alone in its batch."""
    members = []
    for path in models:
        model: Any = load_model(path).model
        source = pad_rows([[*row["source_ids"], model.eos_id]], model.pad_id)
        target_in = pad_rows([[model.start_id, *row["target_ids"]]], model.pad_id)
        with torch.no_grad():
            members.append((model(source, target_in)[0] / temperature).softmax(-1))
    return torch.stack(members).mean(0)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_each_position_has_the_ensembles_likeliest_ids_and_the_rest(
    prepared: Path, teacher: Path, tmp_path: Path, temperature: float
) -> None:
    other = make_teacher(tmp_path / "other", prepared / "vocab.model", seed=2, arch="lstm")
    config = soft_config(prepared, teacher, other, top_k=5, temperature=temperature)
    soft_targets.run(config, tmp_path / "soft", device="cpu")
    gold, soft = Corpus.open(prepared / "train"), Corpus.open(tmp_path / "soft", "soft")
    assert [shard.rows for shard in soft.shards] == [shard.rows for shard in gold.shards]
    table = SoftTable(soft)
    for one, two in zip(gold.tables(), soft.tables(), strict=True):
        assert two.select(["id", "target_ids"]).equals(one.select(["id", "target_ids"]))
        for asked in one.to_pylist()[::13]:
            written = table.of(np.array([asked["id"]]))
            assert written.tail is not None
            wanted = probabilities([teacher, other], asked, temperature)
            top = wanted.topk(5)
            ids, order = top.indices.sort()
            assert torch.equal(written.ids, ids)
            torch.testing.assert_close(written.logprobs.exp(), top.values.gather(1, order), rtol=0.15, atol=5e-3)
            torch.testing.assert_close(written.tail.exp(), 1 - top.values.sum(-1), rtol=1e-2, atol=1e-4)


def test_the_manifest_says_what_was_made_and_what_a_token_costs(prepared: Path, teacher: Path, tmp_path: Path) -> None:
    soft_targets.run(soft_config(prepared, teacher), tmp_path / "soft", device="cpu")
    manifest, gold = read_manifest(tmp_path / "soft"), read_manifest(prepared / "train")
    assert manifest.kind == "soft"
    assert (manifest.rows, manifest.target_tokens, manifest.vocabulary) == (
        gold.rows,
        gold.target_tokens,
        gold.vocabulary,
    )
    assert manifest.fingerprint["inputs"]["corpus"] == gold.digest()
    assert (manifest.extra["top_k"], manifest.extra["samples"], manifest.extra["temperature"]) == (16, None, 1.0)
    assert manifest.extra["positions"] == gold.target_tokens + gold.rows
    size = sum(path.stat().st_size for path in (tmp_path / "soft").glob("*.arrow"))
    assert manifest.extra["bytes_per_token"] == pytest.approx(size / manifest.extra["positions"], abs=0.01)


@pytest.mark.parametrize("kind", [{"top_k": 4}, {"samples": 12}])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    prepared: Path, teacher: Path, tmp_path: Path, kind: dict[str, Any]
) -> None:
    config = soft_config(prepared, teacher, **kind)
    soft_targets.run(config, tmp_path / "whole", device="cpu")
    with interrupted_before("shard-00001.arrow"), pytest.raises(KeyboardInterrupt):
        soft_targets.run(config, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "manifest.json").exists()
    with placed(".arrow") as made:
        soft_targets.run(config, tmp_path / "out", device="cpu")
    assert made == ["shard-00001.arrow", "shard-00002.arrow"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_finished_folder_is_left_alone_and_other_settings_are_refused(
    prepared: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soft_targets.run(soft_config(prepared, teacher, top_k=3), tmp_path / "soft", device="cpu")
    before = contents(tmp_path / "soft")
    soft_targets.run(soft_config(prepared, teacher, top_k=3, seed=9), tmp_path / "soft", device="cpu")
    assert "up to date" in capsys.readouterr().err
    with pytest.raises(ConflictError, match=r"config\.temperature: 1\.0 -> 2\.0"):
        soft_targets.run(soft_config(prepared, teacher, top_k=3, temperature=2.0), tmp_path / "soft", device="cpu")
    with pytest.raises(ConflictError, match=r"inputs\.corpus"):
        soft_targets.run(
            soft_config(prepared, teacher, top_k=3, corpus=prepared / "valid"), tmp_path / "soft", device="cpu"
        )
    assert contents(tmp_path / "soft") == before


def test_the_mean_of_many_draws_is_the_teachers_distribution(prepared: Path, teacher: Path, tmp_path: Path) -> None:
    asked = Corpus.open(prepared / "valid").read_shard(0).slice(0, 1).to_pylist()[0]
    wanted = probabilities([teacher], asked, 3.0).double()
    n, seeds = 100, 20
    total = torch.zeros_like(wanted)
    for seed in range(seeds):
        out = tmp_path / str(seed)
        config = soft_config(prepared, teacher, corpus=prepared / "valid", samples=n, seed=seed, temperature=3.0)
        soft_targets.run(config, out, device="cpu")
        soft = SoftTable(Corpus.open(out, "soft")).of(np.array([asked["id"]]))
        assert soft.tail is None
        counts = soft.logprobs.double().exp() * n
        torch.testing.assert_close(counts, counts.round(), atol=1e-4, rtol=0)
        torch.testing.assert_close(counts.sum(-1), torch.full((len(wanted),), float(n), dtype=torch.float64))
        total.scatter_add_(1, soft.ids, counts)
    mean = total / (n * seeds)
    # Binomial: five standard deviations of each of some hundred numbers, and a few draws where hardly any is expected.
    spread = (wanted * (1 - wanted) / (n * seeds)).sqrt()
    assert bool(((mean - wanted).abs() <= 5 * spread + 3 / (n * seeds)).all())
    assert float(spread.max()) > 0.005  # the distributions are not all certain: there was something to draw


def test_samples_of_a_row_do_not_depend_on_its_batch(prepared: Path, teacher: Path, tmp_path: Path) -> None:
    for name, tokens in (("small", 20), ("large", 4000)):
        config = soft_config(prepared, teacher, samples=8, batch_tokens=tokens)
        soft_targets.run(config, tmp_path / name, device="cpu")
    ids = np.arange(50)
    small, large = (SoftTable(Corpus.open(tmp_path / name, "soft")).of(ids) for name in ("small", "large"))
    assert torch.equal(small.ids, large.ids)
    assert torch.equal(small.logprobs, large.logprobs)


def test_the_number_of_threads_changes_no_byte(prepared: Path, teacher: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            soft_targets.run(soft_config(prepared, teacher, batch_tokens=4000), tmp_path / str(threads), device="cpu")
    finally:
        torch.set_num_threads(before)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")


def test_rows_that_a_teacher_has_no_room_for_are_left_out_and_listed(prepared: Path, tmp_path: Path) -> None:
    ids, sources, targets = Corpus.open(prepared / "train").lengths()
    longest = np.maximum(sources, targets)
    limit = int(longest.max())
    teacher = make_teacher(tmp_path / "teacher", prepared / "vocab.model", max_positions=limit)
    soft_targets.run(soft_config(prepared, teacher), tmp_path / "soft", device="cpu")
    dropped = sorted(ids[longest >= limit].tolist())
    manifest = read_manifest(tmp_path / "soft")
    assert manifest.counts == {"longer than a teacher's max_positions": len(dropped)}
    lines = (tmp_path / "soft" / "rejected.tsv").read_text().splitlines()[1:]
    assert [int(line.split("\t")[0]) for line in lines] == dropped
    kept = sorted(row for table in Corpus.open(tmp_path / "soft").tables(["id"]) for row in table["id"].to_pylist())
    assert kept == sorted(set(ids.tolist()) - set(dropped))


def test_what_cannot_work_is_refused_before_the_folder_is_begun(prepared: Path, teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    prepare.run(prepare_config(tmp_path / "elsewhere", size=35), tmp_path / "other")
    foreign = make_teacher(tmp_path / "foreign", tmp_path / "other" / "vocab.model")
    parallel = make_teacher(tmp_path / "nat", prepared / "vocab.model", arch="nat")
    out = tmp_path / "out"
    with pytest.raises(CorpusError, match="a target vocabulary other than the teacher's"):
        soft_targets.run(soft_config(prepared, foreign), out, device="cpu")
    with pytest.raises(ModelError, match="the target vocabulary of this teacher is not that"):
        soft_targets.run(soft_config(prepared, teacher, foreign), out, device="cpu")
    with pytest.raises(ModelError, match="'nat' gives no distributions position by position"):
        soft_targets.run(soft_config(prepared, parallel), out, device="cpu")
    with pytest.raises(CorpusError, match="top_k is 41, but the vocabulary has 40 pieces"):
        soft_targets.run(soft_config(prepared, teacher, top_k=41), out, device="cpu")
    assert not out.exists()


def test_logits_that_are_not_finite_name_their_rows(prepared: Path, tmp_path: Path) -> None:
    sick = make_teacher(tmp_path / "sick", prepared / "vocab.model", nan=True)
    with pytest.raises(WorkError, match=r"rows \d+.*not finite"):
        soft_targets.run(soft_config(prepared, sick), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"top_k": 4, "samples": 4}, "give either top_k or samples"),
        ({"temperature": 0.0}, "temperature: Input should be greater than 0"),
        ({"samples": 300}, "samples: Input should be less than or equal to 256"),
    ],
)
def test_settings_that_contradict(prepared: Path, teacher: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        soft_config(prepared, teacher, **values)
