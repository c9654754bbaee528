"""StageOutput: start, go on, refuse."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from seqkd.corpus.manifest import Manifest, Provenance, StageOutput, read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.writer import finished_shards, write_shard
from seqkd.errors import ConflictError, CorpusError, WorkError
from tests.events import before, largest_file
from tests.unit.corpus.corpora import rows


def made_by(
    *, worked: dict[str, Any] | None = None, revisions: dict[str, int] | None = None, **config: Any
) -> Provenance:
    return Provenance(
        stage="prepare",
        settings={"seed": 1, "vocabulary": {"size": 100}, **config},
        inputs={"text": "0" * 64},
        worked=worked or {},
        revisions=revisions or {},
    )


def open_output(out: Path, *, overwrite: bool = False, **config: Any) -> StageOutput:
    return StageOutput.open(out, "corpus", made_by(**config), overwrite=overwrite)


def finish(out: Path, **config: Any) -> None:
    with open_output(out, **config) as output:
        info = write_shard(out, 0, rows(0, 3))
        provenance = made_by(**config)
        manifest = Manifest(
            kind="corpus", fingerprint=provenance.fingerprint, rows=3, shards=[info], extra=provenance.extra
        )
        output.commit(manifest)


def begin(out: Path, **config: Any) -> None:
    with open_output(out, **config):
        write_shard(out, 0, rows(0, 3))


def names(out: Path) -> set[str]:
    """The files of a folder, without the note of what the work has cost so far."""
    return {entry.name for entry in out.iterdir() if entry.name != ".cost.json"}


def test_a_committed_folder_holds_its_files_only(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b"
    finish(out)
    assert names(out) == {"shard-00000.arrow", "manifest.json", "cost.json"}
    assert read_manifest(out).fingerprint == made_by().fingerprint


def test_same_fingerprint_is_complete_and_touches_nothing(tmp_path: Path) -> None:
    finish(tmp_path / "out")
    before = (tmp_path / "out" / "manifest.json").stat().st_mtime_ns
    out = tmp_path / "out"
    out.chmod(0o555)
    try:
        with open_output(out) as output:
            assert output.complete
            assert output.manifest == read_manifest(out)
    finally:
        out.chmod(0o755)
    assert (out / "manifest.json").stat().st_mtime_ns == before
    assert names(out) == {"shard-00000.arrow", "manifest.json", "cost.json"}


def test_another_fingerprint_is_refused_and_every_difference_named(tmp_path: Path) -> None:
    out = tmp_path / "out"
    finish(out)
    with pytest.raises(ConflictError) as caught:
        open_output(out, seed=2, vocabulary={"size": 200})
    message = str(caught.value)
    assert "config.seed: 1 -> 2" in message
    assert "config.vocabulary.size: 100 -> 200" in message
    assert "inputs.text" not in message
    assert "--overwrite" in caught.value.hint
    assert caught.value.where == str(out)
    assert names(out) == {"shard-00000.arrow", "manifest.json", "cost.json"}


def test_another_kind_is_refused(tmp_path: Path) -> None:
    finish(tmp_path / "out")
    with pytest.raises(ConflictError, match='kind: "corpus" -> "kbest"'):
        StageOutput.open(tmp_path / "out", "kbest", made_by(), overwrite=False)


def test_a_partial_folder_is_gone_on_with(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begin(out)
    assert names(out) == {"shard-00000.arrow", "partial.json"}
    with pytest.raises(CorpusError, match="not a finished"):
        Corpus.open(out)
    with open_output(out) as output:
        assert not output.complete
        assert list(finished_shards(out)) == [0]


def test_a_partial_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begin(out)
    with pytest.raises(ConflictError, match=r"begun with other settings(.|\n)*config.seed: 1 -> 2"):
        open_output(out, seed=2)
    assert names(out) == {"shard-00000.arrow", "partial.json"}


def test_overwrite_follows_no_links_out_of_the_folder(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    out = tmp_path / "out"
    begin(out)
    (out / "link").symlink_to(precious)
    open_output(out, overwrite=True).close()
    assert names(precious) == {"file"}
    assert names(out) == {"partial.json"}


def test_a_crash_while_emptying_does_not_mix_old_and_new(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begin(out)
    (out / "sub").mkdir()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with before("shutil.rmtree", crash), pytest.raises(KeyboardInterrupt):
        open_output(out, overwrite=True, seed=2)
    assert "manifest.json" not in names(out)
    with open_output(out, seed=2) as output:
        assert not output.complete
        assert names(out) == {"partial.json", ".lock"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "text"), [("thesis.txt", "mine"), ("manifest.json", '{"manifest_version": 3}'), ("partial.json", "[]")]
)
def test_a_foreign_folder_is_refused_and_left_as_it_was(tmp_path: Path, overwrite: bool, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConflictError, match="--out"):
        open_output(tmp_path, overwrite=overwrite)
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {name: text}


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(ConflictError, match="is a file"):
        open_output(tmp_path / "out", overwrite=True)


def test_a_folder_held_in_this_process_is_in_use(tmp_path: Path) -> None:
    with open_output(tmp_path / "out"), pytest.raises(ConflictError, match="in use by another process"):
        open_output(tmp_path / "out", overwrite=True)
    open_output(tmp_path / "out").close()


def test_a_lock_whose_file_its_last_holder_removed_guards_nothing(tmp_path: Path) -> None:
    """Between our opening the lock's file and locking it, another process may finish and remove that file."""
    calls = []

    def remove(descriptor: int, _: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            (tmp_path / ".lock").unlink()

    with before("fcntl.flock", remove):
        output = open_output(tmp_path)
    with output:
        assert len(calls) == 2
        with pytest.raises(ConflictError, match="in use"):
            open_output(tmp_path)


HOLDER = """
    import sys, time
    from pathlib import Path
    from seqkd.corpus.manifest import StageOutput
    from seqkd.corpus.writer import write_shard
    from tests.unit.corpus.corpora import rows
    from tests.unit.corpus.test_output import made_by
    out = Path(sys.argv[1])
    output = StageOutput.open(out, "corpus", made_by(), overwrite=False)
    write_shard(out, 0, rows(0, 3))
    print("ready", flush=True)
    time.sleep(60)
"""


def test_killed_between_shard_and_manifest(tmp_path: Path) -> None:
    """While the other process lives the folder is taken; once it is killed, work goes on after its shard."""
    out = tmp_path / "out"
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        with pytest.raises(ConflictError, match="in use by another process"):
            open_output(out)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    (out / ".shard-00001.arrow.99.tmp").write_bytes(b"half a shard")
    with open_output(out) as output:
        assert not output.complete
        done = finished_shards(out)
        assert list(done) == [0]
        done[1] = write_shard(out, 1, rows(3, 2))
        output.commit(Manifest(kind="corpus", fingerprint=made_by().fingerprint, rows=5, shards=list(done.values())))
    assert names(out) == {"shard-00000.arrow", "shard-00001.arrow", "manifest.json", "cost.json"}
    corpus = Corpus.open(out)
    assert sum(table.num_rows for table in corpus.tables()) == corpus.rows
    assert corpus.lengths()[0].tolist() == [0, 1, 2, 3, 4]


def test_looking_whether_there_is_work_touches_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def done(*, overwrite: bool = False, **config: Any) -> bool:
        return StageOutput.up_to_date(out, "corpus", made_by(**config), overwrite=overwrite)

    assert not done()
    assert not out.exists()
    begin(out)
    assert not done()
    assert names(out) == {"shard-00000.arrow", "partial.json"}
    finish(out)
    assert done()
    assert not done(overwrite=True)
    with pytest.raises(ConflictError, match="seed"):
        done(seed=2)
    assert names(out) == {"shard-00000.arrow", "manifest.json", "cost.json"}


@pytest.mark.parametrize("named", [None, "elsewhere"])
def test_what_the_system_refuses_while_it_is_open_is_a_work_error(tmp_path: Path, named: str | None) -> None:
    with pytest.raises(WorkError, match="cannot be used: No space left") as caught, open_output(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), named)
    assert caught.value.where == (named or str(tmp_path / "out"))
    assert "free some space" in caught.value.hint
    begin(tmp_path / "out")  # nobody holds it


def test_a_kill_right_after_locking_leaves_a_folder_that_can_be_used(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".partial.json.7.tmp").touch()
    with open_output(tmp_path) as output:
        assert not output.complete
        assert names(tmp_path) == {".lock", "partial.json"}


def test_a_kill_right_after_the_manifest_is_complete(tmp_path: Path) -> None:
    finish(tmp_path / "a")
    begin(tmp_path / "b")
    shutil.copy(tmp_path / "b" / "partial.json", tmp_path / "a" / "partial.json")
    assert open_output(tmp_path / "a").complete


def test_a_full_disk_at_commit_leaves_a_partial_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with open_output(out) as output:
        info = write_shard(out, 0, rows(0, 3))

        manifest = Manifest(kind="corpus", fingerprint=made_by().fingerprint, rows=3, shards=[info])
        with largest_file(100), pytest.raises(WorkError, match="File too large"):
            output.commit(manifest)
        assert not output.complete
    assert names(out) == {"shard-00000.arrow", "partial.json"}


def test_no_permission_is_a_work_error(tmp_path: Path) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with before("os.mkdir", refused), pytest.raises(WorkError, match="Permission denied") as caught:
        open_output(tmp_path / "out")
    assert "permissions" in caught.value.hint


def test_only_what_was_opened_can_be_committed(tmp_path: Path) -> None:
    with open_output(tmp_path / "out") as output, pytest.raises(ValueError, match="fingerprint"):
        output.commit(Manifest(kind="corpus", fingerprint=made_by(seed=2).fingerprint))
    with pytest.raises(ValueError, match="closed"):
        output.commit(Manifest(kind="corpus", fingerprint=made_by().fingerprint))
