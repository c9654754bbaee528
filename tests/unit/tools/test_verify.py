"""Verify: whatever is changed in a run is found and named, from the distilled corpus back to the gold text."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from seqkd.corpus.manifest import Manifest, ShardInfo, build_fingerprint, read_manifest, write_manifest
from seqkd.corpus.writer import write_shard
from seqkd.errors import CorpusError, ModelError
from seqkd.models.checkpoint import load_model
from seqkd.stages.distill import distill
from seqkd.tools import verify
from tests.torture.table import Record
from tests.unit.corpus.corpora import MADE_BY, rows
from tests.unit.stages.teachers import make_teacher
from tests.unit.stages.whole_run import decode_config, make_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and k-best lists of another decode."""
    root = make_run(tmp_path_factory.mktemp("run"))
    distill.run(decode_config(root, seed=2), root / "other", device="cpu")
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def problems(folder: Path, *inputs: Path, bucket_ids: int = verify.BUCKET_IDS) -> list[str]:
    return verify.verify(folder, inputs, bucket_ids=bucket_ids).problems


def flip(path: Path, place: float = 0.5, bit: int = 2) -> None:
    """Change one bit of the byte at this share of the file."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1 << bit
    path.write_bytes(data)


def rewrite(folder: Path, shards: list[ShardInfo]) -> None:
    """A manifest that fits the shards, whatever they are; all else as it was."""
    old = read_manifest(folder)
    write_manifest(folder, replace(old, shards=shards, rows=sum(shard.rows for shard in shards)))


@pytest.mark.parametrize("name", ["distilled", "kbest", "soft", "teacher", "gold", "gold/train", "."])
def test_what_stages_wrote_is_sound(made: Path, name: str) -> None:
    found = verify.verify(made / name)
    assert found.problems == []
    assert found.notes == []
    chain = {
        "distilled": {"distilled", "kbest", "teacher", "gold/train", "gold/valid"},
        "soft": {"soft", "distilled", "kbest", "teacher", "gold/train", "gold/valid"},
        "gold/train": {"gold/train"},
    }
    if name in chain:
        assert {str(path.relative_to(made)) for path, _ in found.folders} == chain[name]
    assert "everything is as it was written" in verify.format_result(found)


@pytest.mark.parametrize(
    "path",
    [
        "distilled/shard-00001.arrow",
        "kbest/shard-00000.arrow",
        "gold/train/shard-00002.arrow",
        "soft/shard-00000.arrow",
    ],
)
def test_a_flipped_byte_in_a_shard(run: Path, path: str) -> None:
    flip(run / path)
    found = problems(run / "soft")
    assert len(found) == 1
    assert found[0].startswith(f"{run / path}: its SHA-256 is ")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.model"])
def test_a_flipped_byte_in_a_checkpoint(run: Path, name: str) -> None:
    flip(run / "teacher" / name)
    found = problems(run / "distilled")
    assert len(found) == 1
    assert found[0].startswith(f"{run / 'teacher'}: {name}: the SHA-256 is ")
    with pytest.raises(ModelError, match=rf"changed after it was made:\n +{name}"):
        load_model(run / "teacher")


def test_prepared_data(run: Path) -> None:
    flip(run / "gold" / "vocab.model")
    manifest = run / "gold" / "train" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"shard_rows": 80', '"shard_rows": 81'))
    found = problems(run / "gold")
    assert len(found) == 2
    assert f"{manifest.parent}: not the corpus that {run / 'gold'} was finished with" in found[0]
    assert found[1].startswith(f"{run / 'gold' / 'vocab.model'}: SHA-256 is ")


def test_a_missing_shard_and_one_too_many(run: Path) -> None:
    (run / "kbest/shard-00001.arrow").rename(run / "kbest/shard-00007.arrow")
    assert problems(run / "kbest") == [
        f"{run / 'kbest/shard-00007.arrow'}: not in the manifest",
        f"{run / 'kbest/shard-00001.arrow'}: is missing, but listed in the manifest",
    ]


def test_all_problems_at_once(run: Path) -> None:
    (run / "gold/train/shard-00001.arrow").unlink()
    flip(run / "distilled/shard-00000.arrow")
    flip(run / "teacher/model.safetensors")
    found = verify.verify(run / "distilled")
    assert len(found.problems) == 3
    with pytest.raises(CorpusError, match="3 problems:") as caught:
        verify.format_result(found)
    assert caught.value.exit_code == 2
    for name in ("gold/train/shard-00001.arrow", "distilled/shard-00000.arrow", "model.safetensors"):
        assert name in str(caught.value)


def test_damage_anywhere(run: Path, full: bool, record: Record) -> None:
    """Of what a report rests on: any bit of any file, any shard missing, or replaced by one of another run."""
    draw = random.Random(1)
    shards = sorted(path for path in run.rglob("shard-*.arrow") if path.parent.name != "other")
    files = [*shards, *sorted(run.rglob("*.safetensors")), *sorted(run.rglob("vocab.model"))]
    files = [path for path in files if "state" not in path.parts]

    def found(path: Path) -> bool:
        name = "model.safetensors" if path.suffix == ".safetensors" else path.name
        return any(str(path.parent) in line and name in line for line in problems(path.parent))

    flips = 300 if full else 10
    for _ in range(flips):
        path, place, bit = draw.choice(files), draw.random(), draw.randrange(8)
        flip(path, place, bit)
        assert found(path), (path, place, bit)
        flip(path, place, bit)
    record("a byte is flipped", "any bit of any shard, weights or vocabulary", flips, "`seqkd verify` names the file")
    for path in shards:
        path.rename(run / "away")
        assert f"{path}: is missing, but listed in the manifest" in problems(path.parent)
        (run / "away").rename(path)
    record("a shard is missing", "each shard of a run is deleted", len(shards), "`seqkd verify` names it")
    others = sorted((run / "other").glob("shard-*.arrow"))
    for other in others:
        path = run / "kbest" / other.name
        path.rename(run / "away")
        shutil.copy(other, path)
        (line,) = problems(run / "kbest")
        assert line.startswith(str(path)), line
        assert line.endswith(f"the file is {other}, a shard of another run"), line
        (run / "away").rename(path)
    record(
        "a shard of another run", "takes the place of one of the k-best lists", len(others),
        "`seqkd verify` names it, and where it comes from",
    )  # fmt: skip
    assert problems(run) == []


def swap(folder: Path) -> None:
    first, second = folder / "shard-00000.arrow", folder / "shard-00001.arrow"
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)


def test_swapped_shards(run: Path) -> None:
    swap(run / "distilled")
    found = problems(run / "distilled")
    assert len(found) == 2
    assert found[0].endswith("the file is shard-00001.arrow of this folder")
    assert found[1].endswith("the file is shard-00000.arrow of this folder")


@pytest.mark.parametrize("name", ["kbest", "distilled", "soft"])
def test_swapped_shards_with_a_manifest_that_fits(run: Path, name: str) -> None:
    """The rows tell: they are not those of the shards that these were made from."""
    swap(run / name)
    first, second, *rest = read_manifest(run / name).shards
    swapped = [replace(second, name=first.name), replace(first, name=second.name)]
    rewrite(run / name, [*swapped, *rest])
    found = problems(run / name)
    assert any("shard-00000.arrow: ids that" in line for line in found)
    assert any("shard-00001.arrow: ids that" in line and "swapped, or of another run" in line for line in found)


@pytest.mark.parametrize("name", ["kbest", "distilled"])
def test_rows_of_another_run_with_a_manifest_that_fits(run: Path, name: str) -> None:
    """Dense ids always match; the sources do not."""
    shards = read_manifest(run / name).shards
    table = pa.ipc.open_file(str(run / name / shards[0].name)).read_all()
    sources = table.column("source_ids").to_pylist()
    sources[3], sources[5] = [5], [6]
    at = table.column_names.index("source_ids")
    table = table.set_column(at, "source_ids", pa.array(sources, pa.list_(pa.int32())))
    rewrite(run / name, [write_shard(run / name, 0, table), *shards[1:]])
    found = problems(run / name)
    ids = [table.column("id")[row].as_py() for row in (3, 5)]
    assert any(f"rows with another source_ids than in {run}" in line for line in found)
    assert any(f": {ids[0]}, {ids[1]}; of another run" in line for line in found)


def test_an_input_that_was_made_again(run: Path) -> None:
    distill.run(decode_config(run, seed=3), run / "kbest", overwrite=True, device="cpu")
    found = problems(run / "distilled")
    assert len(found) == 1
    assert "its input `kbest`" in found[0]
    assert "missing, changed or made again" in found[0]


def test_a_teacher_that_was_trained_again(run: Path) -> None:
    shutil.rmtree(run / "teacher")
    make_teacher(run / "teacher", run / "gold" / "vocab.model", seed=2)
    assert [line for line in problems(run / "distilled") if "its input `model1`" in line]


def test_inputs_elsewhere(run: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "alone").mkdir()
    shutil.move(run / "distilled", tmp_path / "alone" / "distilled")
    shutil.move(run / "teacher", tmp_path / "elsewhere" / "teacher")
    alone = tmp_path / "alone" / "distilled"
    assert len(problems(alone)) == 2  # gold and kbest
    assert len(problems(alone, run)) == 1  # the teacher
    assert problems(alone, run, tmp_path / "elsewhere") == []
    with pytest.raises(CorpusError, match="no such folder"):
        problems(alone, tmp_path / "nowhere")


def test_folders_that_stage_files_name(run: Path, tmp_path: Path) -> None:
    shutil.move(run / "teacher", tmp_path / "teacher")
    (run / "plan.mk").touch()
    (run / "config").mkdir()
    (run / "config" / "distill.toml").write_text(f'models = ["{tmp_path / "teacher"}"]\n')
    assert problems(run / "kbest") == []


def test_a_damaged_manifest(run: Path) -> None:
    (run / "kbest" / "manifest.json").write_text("{")
    found = problems(run / "distilled")
    assert len(found) == 1
    assert "its input `kbest`" in found[0]
    assert f"{run / 'kbest'} cannot be read" in found[0]
    assert any(f"{run / 'kbest/manifest.json'}: damaged" in line for line in problems(run))
    with pytest.raises(CorpusError, match=r"manifest.json: damaged"):
        verify.verify(run / "kbest")


def test_a_model_without_a_manifest(run: Path) -> None:
    (run / "teacher" / "manifest.json").unlink()
    found = verify.verify(run / "kbest")
    assert found.problems == []
    assert "has no manifest" in found.notes[0]
    weights = run / "teacher" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert any(f"{weights}: damaged" in line for line in problems(run / "teacher"))
    assert any("its input `model1`" in line for line in problems(run / "kbest"))


@pytest.mark.parametrize("inputs", ["x", {"corpus": [1]}, {"corpus": None, "model1": {}}])
def test_a_fingerprint_that_nobody_wrote(run: Path, inputs: object) -> None:
    old = read_manifest(run / "kbest")
    write_manifest(run / "kbest", replace(old, fingerprint={**old.fingerprint, "inputs": inputs}))
    assert len(problems(run / "kbest")) == (len(inputs) if isinstance(inputs, dict) else 0)


def test_nothing_of_ours(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(CorpusError, match="not a finished seqkd output"):
        verify.verify(tmp_path / "x")
    with pytest.raises(CorpusError, match="no such folder"):
        verify.verify(tmp_path / "y")


# --- ids ----------------------------------------------------------------------------------------------------------


def corpus(folder: Path, *shards: list[int]) -> Path:
    folder.mkdir()
    infos = []
    for index, ids in enumerate(shards):
        table = rows(0, len(ids)).set_column(0, "id", pa.array(ids, pa.int64()))
        infos.append(write_shard(folder, index, table))
    write_manifest(folder, Manifest(kind="corpus", fingerprint=MADE_BY, rows=sum(map(len, shards)), shards=infos))
    return folder


@pytest.mark.parametrize("bucket", [1, 3, 4_000_000])
def test_an_id_twice(tmp_path: Path, bucket: int) -> None:
    sound = corpus(tmp_path / "sound", [5, -3, 9], [], [2**63 - 1, -(2**63), 0])
    assert problems(sound, bucket_ids=bucket) == []
    found = problems(corpus(tmp_path / "twice", [5, 6, 9, 9], [], [7, 5, 1], [9]), bucket_ids=bucket)
    assert len(found) == 1
    assert "ids that occur more than once: " in found[0]
    assert set(found[0].split(": ")[2].split(", ")) == {"5 (2 times)", "9 (3 times)"}


def test_many_ids_twice_are_not_all_named(tmp_path: Path) -> None:
    found = problems(corpus(tmp_path / "many", list(range(50)), list(range(50))))
    assert len(found) == 1
    assert found[0].endswith(" and more")
    assert len(found[0]) < 400


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """Eight million rows in an order that needs the second look, in less memory than their ids take."""
    folder = tmp_path / "large"
    folder.mkdir()
    size, count = 100_000, 80
    order = np.random.default_rng(1).permutation(count)
    infos = []
    base = rows(4, 1).take(pa.array([0] * size))
    for index in range(count):
        ids = np.arange(size)[::-1] + size * int(order[index])
        infos.append(write_shard(folder, index, base.set_column(0, "id", pa.array(ids, pa.int64()))))
    manifest = Manifest(kind="corpus", fingerprint=build_fingerprint("x", {}, {}), rows=size * count, shards=infos)
    write_manifest(folder, manifest)
    program = (
        "import resource, sys; from pathlib import Path; from seqkd.tools import verify\n"
        "verify.BUCKET_IDS = 500_000\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); assert not verify.verify(Path(sys.argv[1])).problems; print(peak() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50_000  # kilobytes; the ids alone are 64,000


def test_the_manifest_records_a_models_files(made: Path) -> None:
    files = json.loads((made / "teacher" / "manifest.json").read_text())["extra"]["files"]
    assert set(files) == {"model.safetensors", "config.json", "vocab.model"}


# --- what another version made ------------------------------------------------------------------------------------


def test_an_unknown_stage_is_noted_in_one_line(run: Path) -> None:
    old = read_manifest(run / "kbest")
    unknown = {**old.fingerprint, "stage": "prune", "inputs": {"corpus": "0" * 64, "donor": "1" * 64}}
    write_manifest(run / "kbest", replace(old, fingerprint=unknown))
    found = verify.verify(run / "kbest")
    assert found.problems == []
    (note,) = found.notes
    assert note.startswith(f"{run / 'kbest'}: this version does not know the stage 'prune'")
    assert note in verify.format_result(found)


def test_an_unknown_input_is_noted_in_one_line_and_the_others_are_looked_for(run: Path) -> None:
    old = read_manifest(run / "kbest")
    inputs = {**old.fingerprint["inputs"], "donor": "1" * 64}
    write_manifest(run / "kbest", replace(old, fingerprint={**old.fingerprint, "inputs": inputs}))
    found = verify.verify(run / "kbest")
    assert found.problems == []
    (note,) = found.notes
    assert note.startswith(f"{run / 'kbest'}: this version does not know the input `donor`")
    assert {path.name for path, _ in found.folders} >= {"train", "teacher"}


def test_a_replaced_folder_is_looked_at_only_if_it_is_given(run: Path) -> None:
    distill.run(decode_config(run, seed=3), run / "kbest", overwrite=True, device="cpu")
    assert run / "kbest.old" not in [path for path, _ in verify.verify(run).folders]
    assert verify.verify(run / "kbest.old").problems == []
    assert problems(run / "distilled", run / "kbest.old") == []
