"""Kill a stage while it asks an endpoint, and start it again: `python -m tests.torture.worker_kills FOLDER MOMENTS`.

The endpoint fails in every way that a service can. A process of its own, without threads, that has loaded everything:
its children are forked and start at once. Prints what happened as JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from seqkd.cli.main import main as seqkd
from seqkd.corpus.reader import Corpus
from seqkd.interop.asking import endpoint
from seqkd.interop.asking.asker import Asker
from seqkd.interop.workers import TeacherSettings
from seqkd.stages.distill import distill as stage
from tests.torture.kills import code_of, forked
from tests.unit.interop.worker_server import Row, Server, translate

# Children would otherwise import these modules, each again.
LOADED = (endpoint, stage)
for _name in ("pandas", "httpcore2", "dateutil.parser"):  # imported by pyarrow, if it is there, and by httpx2
    with contextlib.suppress(ImportError):
        importlib.import_module(_name)

ROWS, SHARD_ROWS, BATCH, PARALLEL = 36, 12, 3, 2
REQUESTS = ROWS // BATCH + 1
PASSING = ["429", "503", "reordered", "reordered"] * 3 + ["cut", "half"]
FATAL = ["short", "repeated", "html", "unknown"]
GOOD = 70  # requests beside these that are answered
RUNS = 12  # until the stage is through: each fatal fault ends one

_PREPARE = """
vocabulary = {{ size = 40, byte_fallback = false }}
shard_rows = {rows}
train = {{ source = "{folder}/train.s", target = "{folder}/train.t" }}
valid = {{ source = "{folder}/train.s", target = "{folder}/train.t" }}
test = {{ source = "{folder}/train.s", target = "{folder}/train.t" }}
"""
_DISTILL = """
corpus = "{folder}/gold/train"
prepared = "{folder}/gold"
[source]
endpoint = "{url}"
name = "service"
batch = {batch}
parallel = {parallel}
canary = 3
"""


@dataclass(slots=True)
class Result:
    """What happened over all moments.

    Attributes:
        moments: Kills after which the same bytes came out.
        answered: Rows that were answered before a kill; none of them was asked again.
        failures: Runs that a fault of the endpoint ended.
        requests: Requests that the endpoint got.
    """

    moments: int = 0
    answered: int = 0
    failures: int = 0
    requests: int = 0


def serve(folder: Path) -> int:
    """Answer rows, fail, and note the sources of each request, until killed."""
    draw = random.Random(5)
    faults = [*PASSING, *FATAL, *[""] * GOOD]
    draw.shuffle(faults)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def answer(row: Row) -> Row:
        return translate(row)

    def note(body: dict[str, list[Row]]) -> None:
        os.write(log, (json.dumps([row["source"] for row in body["rows"]]) + "\n").encode())

    with Server(answer, faults * 50, note=note, retry_after="0.01") as server:
        server.delay = 0.004
        (folder / "port.new").write_text(server.url)
        (folder / "port.new").rename(folder / "port")
        while os.getppid() != 1:
            time.sleep(0.2)
    return 0


def prepare(folder: Path) -> int:
    """Write a corpus in which some sources come twice."""
    draw = random.Random(3)
    words = ["der", "hund", "katze", "schläft", "jagt"]
    lines = [" ".join(draw.choices(words, k=draw.randint(2, 4))) for _ in range(ROWS)]
    (folder / "train.s").write_text("".join(f"{line}\n" for line in lines))
    (folder / "train.t").write_text("".join(f"{line[::-1]} {row}\n" for row, line in enumerate(lines)))
    (folder / "prepare.toml").write_text(_PREPARE.format(folder=folder, rows=SHARD_ROWS))
    return seqkd(["prepare", "--config", str(folder / "prepare.toml"), "--out", str(folder / "gold")])


def distill(folder: Path, out: Path) -> int:
    return seqkd(["distill", "--config", str(folder / "distill.toml"), "--out", str(out), "--device", "cpu"])


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.suffix in (".arrow", ".tsv")}


def read_asked(folder: Path) -> list[list[str]]:
    log = folder / "log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def wait_for_requests(folder: Path, count: int, child: int) -> None:
    """Wait until the endpoint has got so many requests, or the child is over."""
    while not (folder / "log").exists() or (folder / "log").read_bytes().count(b"\n") < count:
        if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)


def find_answered(work: Path, sources: set[str]) -> set[str]:
    """The sources whose answers are on the disk."""
    keys = {
        json.loads(line)["key"]
        for path in work.rglob("*.jsonl")
        for line in path.read_bytes().splitlines(keepends=True)
        if line.endswith(b"\n") and b'"key"' in line
    }
    asker = Asker(TeacherSettings(endpoint="http://x", name="service"), "teacher", work / "none")
    return {source for source in sources if asker.question(0, {"source": source}).key in keys}


def finish(folder: Path, out: Path, found: Result) -> None:
    """Run the stage until it is through."""
    for _ in range(RUNS):
        code = code_of(forked(lambda: distill(folder, out)))
        if code == 0:
            return
        assert code == 1, code
        found.failures += 1
    raise AssertionError("it is never through")


def main(folder: Path, moments: int) -> Result:
    """Kill the stage at so many moments, each time in a new folder, and start it again."""
    folder.mkdir(parents=True)
    server = forked(lambda: serve(folder))
    found = Result()
    try:
        assert code_of(forked(lambda: prepare(folder))) == 0
        while not (folder / "port").exists():
            time.sleep(0.01)
        url = (folder / "port").read_text()
        (folder / "distill.toml").write_text(_DISTILL.format(folder=folder, url=url, batch=BATCH, parallel=PARALLEL))
        finish(folder, folder / "whole" / "kbest", found)
        expected = contents(folder / "whole" / "kbest")
        rows = [row for table in Corpus.open(folder / "gold" / "train").tables() for row in table.to_pylist()]
        sources = {row["source"] for row in rows}
        assert len(sources) < len(rows)
        canary = list(dict.fromkeys(row["source"] for row in rows))[:BATCH]
        assert find_answered(folder / "whole", sources) == sources
        draw = random.Random(7)
        while found.moments < moments:
            work = folder / "work"
            shutil.rmtree(work, ignore_errors=True)
            child = forked(lambda: distill(folder, work / "kbest"))  # noqa: B023
            wait_for_requests(folder, len(read_asked(folder)) + draw.randint(1, REQUESTS), child)
            time.sleep(draw.uniform(0.0, 0.02))
            os.kill(child, signal.SIGKILL)
            code = code_of(child)
            answered, before = find_answered(work, sources), len(read_asked(folder))
            finish(folder, work / "kbest", found)
            assert contents(work / "kbest") == expected
            # The canary asks its rows once more at the end, in a request of their own.
            asked = [request for request in read_asked(folder)[before:] if request != canary]
            again = {source for request in asked for source in request} & answered
            assert not again, f"asked again: {again}"
            found.moments += code == -signal.SIGKILL
            found.answered += len(answered)
        found.requests = len(read_asked(folder))
    finally:
        os.kill(server, signal.SIGKILL)
        code_of(server)
    return found


if __name__ == "__main__":
    print(json.dumps(asdict(main(Path(sys.argv[1]), int(sys.argv[2])))))
