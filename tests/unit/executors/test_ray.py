"""The Ray executor on a local cluster of several nodes, some of which die or join on the way."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from seqkd.config.stages import DistillConfig, SelectConfig
from seqkd.corpus.manifest import PARTIAL
from seqkd.corpus.records import shard_name
from seqkd.errors import InputError, ModelError, WorkError
from seqkd.executors import ray as executor
from seqkd.executors.work import Scale, ShardWork
from seqkd.stages.distill import distill, soft_targets
from seqkd.stages.prepare import prepare
from seqkd.stages.select import select
from seqkd.stopping import StopRequest
from tests.manifests import comparable
from tests.torture.table import Record
from tests.unit.executors.ray_work import deadly, finish, hang_elsewhere, pieces, start, unloadable
from tests.unit.stages.support import prepare_config
from tests.unit.stages.teachers import soft_config
from tests.unit.stages.test_distill import make_teacher

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of a head with room for one worker, and this process in it."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            ray.init(address=nodes.address, log_to_driver=False, logging_level=40)
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()  # type: ignore[no-untyped-call]
    until = time.monotonic() + 10
    while (left := _ray_processes()) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left


def _ray_processes() -> list[str]:
    """Commands of Ray's processes that this one has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z" and "/ray/" in command:
            found.append(command)
    return found


def second_node(cluster: Any) -> Any:
    """The one node besides the head, also with room for one worker; started if need be."""
    return next(iter(cluster.worker_nodes), None) or cluster.add_node(num_cpus=1)


# --- stages -------------------------------------------------------------------------------------------------------


class HangingWorker:
    """Distill's worker; not on the head, it hangs at its second piece, and no worker begins before that."""

    def __init__(self, config: DistillConfig, *rest: Any) -> None:
        import ray

        self.worker = distill._Worker(config, *rest)
        self.head = ray.get_runtime_context().get_node_id() == (config.corpus / "head").read_text()
        self.hangs = config.corpus / "hangs"
        self.pieces = 0

    def __call__(self, piece: Any) -> Any:
        self.pieces += 1
        if not self.head and self.pieces == 2:
            self.hangs.touch()
        while not (self.head and self.hangs.exists()) and self.pieces == 1 + (not self.head):
            time.sleep(0.01)
        return self.worker(piece)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gold corpus of eight shards, a teacher, and what the local executor makes of them."""
    folder = tmp_path_factory.mktemp("ray")
    prepare.run(prepare_config(folder).model_copy(update={"shard_rows": 25}), folder / "gold")
    make_teacher(folder / "teacher", folder / "gold" / "vocab.model")
    distill.run(distilling(folder), folder / "kbest", device="cpu")
    select.run(selecting(folder), folder / "seqkd")
    return folder


def distilling(folder: Path) -> DistillConfig:
    return DistillConfig(models=(folder / "teacher",), corpus=folder / "gold" / "train", batch_tokens=200, workers=0)


def selecting(folder: Path) -> SelectConfig:
    gold = folder / "gold"
    return SelectConfig(kbest=folder / "kbest", gold=gold / "train", prepared=gold, rule="seqinter")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: comparable(path) for path in folder.iterdir() if path.name != "speed.json"}


def when(condition: Callable[[], bool], then: Callable[[], Any]) -> threading.Thread:
    """Watch from another thread."""

    def watch() -> None:
        until = time.monotonic() + 60
        while not condition() and time.monotonic() < until:
            time.sleep(0.01)
        then()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_node_that_dies_during_a_decode_changes_no_byte(
    cluster: Any,
    made: Path,
    tmp_path: Path,
    record: Record,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(distill, "_Worker", HangingWorker)
    (made / "gold" / "train" / "head").write_text(cluster.head_node.node_id)
    node, hangs = second_node(cluster), made / "gold" / "train" / "hangs"
    dead = when(hangs.exists, lambda: cluster.remove_node(node, allow_graceful=False))
    distill.run(distilling(made), tmp_path / "out", device="cpu", scale=Scale(executor="ray"))
    dead.join()
    assert contents(tmp_path / "out") == contents(made / "kbest")
    said = capsys.readouterr().err
    assert "a worker of the Ray cluster has died at shard" in said
    assert "distill: 200/200 sentences (100%)" in said
    select.run(selecting(made), tmp_path / "seqkd", scale=Scale(executor="ray"))
    assert contents(tmp_path / "seqkd") == contents(made / "seqkd")
    record(
        "a node of a Ray cluster dies",
        "`distill` on two nodes; one is killed while its worker is at a shard",
        1,
        "the other one does that shard, too; same manifest and shards as without Ray, byte by byte",
    )


@pytest.mark.slow
def test_soft_targets_by_a_cluster_are_those_of_one_process(cluster: Any, made: Path, tmp_path: Path) -> None:
    second_node(cluster)
    config = soft_config(made / "gold", made / "teacher", top_k=4, workers=2)
    soft_targets.run(config.model_copy(update={"workers": 1}), tmp_path / "alone", device="cpu")
    soft_targets.run(config, tmp_path / "cluster", device="cpu", scale=Scale(executor="ray"))
    assert contents(tmp_path / "cluster") == contents(tmp_path / "alone")


# --- the executor -------------------------------------------------------------------------------------------------


def begun(folder: Path) -> Path:
    (folder / PARTIAL).write_text("{}")
    return folder


def run(
    folder: Path,
    begin: Any,
    shards: int,
    stop: StopRequest,
    *,
    workers: int = 0,
    look_seconds: float = 2.0,
    most_deaths: int = executor.MOST_DEATHS,
) -> Iterator[int]:
    made = executor.run_shards(
        ShardWork(start=begin, pieces=pieces, finish=finish),
        range(shards),
        workers=workers,
        gpu=False,
        folder=begun(folder),
        stop=stop,
        look_seconds=look_seconds,
        most_deaths=most_deaths,
    )
    return (shard for shard, info in made if info.name == shard_name(shard))


@pytest.mark.slow
def test_a_node_that_joins_gets_work(cluster: Any, tmp_path: Path) -> None:
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node, allow_graceful=False)
    found = []
    with StopRequest() as stop:
        for shard in run(tmp_path, partial(start, tmp_path, 0.1), 60, stop, look_seconds=0.2):
            found.append(shard)
            second_node(cluster)
    assert sorted(found) == list(range(60))
    assert len({path.name.rpartition("-")[2] for path in tmp_path.glob("done-*")}) == 2


@pytest.mark.slow
def test_a_node_may_die_with_all_workers_that_are_starting_on_it(cluster: Any, tmp_path: Path) -> None:
    import ray

    for other in list(cluster.worker_nodes):
        cluster.remove_node(other, allow_graceful=False)
    node = cluster.add_node(num_cpus=3)

    def end() -> None:
        cluster.remove_node(node, allow_graceful=False)
        while any(seen["Alive"] for seen in ray.nodes() if seen["NodeID"] == node.node_id):  # type: ignore[no-untyped-call]
            time.sleep(0.1)
        (tmp_path / "dead").touch()

    dead = when(lambda: len(list(tmp_path.glob("hangs-*"))) == 3, end)
    with StopRequest() as stop:
        begin = partial(hang_elsewhere, tmp_path, cluster.head_node.node_id)
        assert sorted(run(tmp_path, begin, 20, stop, workers=4, look_seconds=0.2, most_deaths=3)) == list(range(20))
    dead.join()


@pytest.mark.slow
def test_errors_deaths_and_stops(cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second_node(cluster)
    with StopRequest() as stop:
        with pytest.raises(ModelError, match="damaged"):
            list(run(tmp_path, partial(unloadable, tmp_path), 3, stop))
        with pytest.raises(WorkError, match="2 workers in a row have died at shard 1") as raised:
            list(run(tmp_path, partial(deadly, tmp_path), 2, stop, workers=1, most_deaths=2))
        assert "same command" in raised.value.hint
        assert list(tmp_path.glob("done-0-*"))
        assert capsys.readouterr().err.count("has died at shard 1") == 1
        for path in tmp_path.glob("done-*"):
            path.unlink()
        found = []
        for shard in run(tmp_path, partial(start, tmp_path, 0.2), 50, stop):
            found.append(shard)
            if len(found) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
        assert 3 <= len(found) <= 5
        assert {int(path.name.split("-")[1]) for path in tmp_path.glob("done-*")} == set(found)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'seqkd\[ray\]'"):
        executor.cluster_device("cpu")


def test_a_node_must_see_the_folder_and_have_the_same_seqkd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    work = ShardWork(start=partial(start, tmp_path, 0.0), pieces=pieces, finish=finish)
    note = begun(tmp_path) / PARTIAL
    assert executor._Worker(work, str(tmp_path), str(note), b"{}").ready() is None
    for worker, message in (
        (executor._Worker(work, str(tmp_path), str(note), b"[]"), "sees another"),
        (executor._Worker(work, str(tmp_path), str(note) + "x", b"{}"), "does not see"),
        (executor._Worker(work, str(tmp_path / "x"), str(note), b"{}"), "does not see"),
    ):
        error = worker.ready()
        assert isinstance(error, InputError)
        assert message in str(error)
