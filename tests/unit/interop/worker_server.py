"""A worker on loopback that fails as told, and programs that are workers."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def translate(row: Row) -> Row:
    """The words of the source backwards, and in capitals."""
    words = row["source"].split()
    return {"id": row["id"], "hypotheses": [{"text": " ".join(words[::-1])}, {"text": row["source"].upper()}]}


class Server(ThreadingHTTPServer):
    """Answers rows. Each request takes the next fault from `faults`; without one it is answered.

    Attributes:
        requests: The bodies of all requests.
        headers: Their headers.
        delay: Seconds before each answer.
    """

    daemon_threads = True

    def __init__(
        self,
        answer: Callable[[Row], Row] = translate,
        faults: Iterable[str] = (),
        port: int = 0,
        note: Callable[[Any], None] | None = None,
        retry_after: str = "0.25",
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answer, self.faults = answer, list(faults)
        self.requests: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.delay = 0.0
        self.note, self.retry_after = note or self.requests.append, retry_after
        self.lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no error here."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/worker"

    @property
    def asked(self) -> list[int]:
        """The ids of all rows that were asked, in order."""
        return [row["id"] for body in self.requests for row in body["rows"]]


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.note(body)
            server.headers.append(dict(self.headers))
            fault = server.faults.pop(0) if server.faults else ""
        time.sleep(server.delay)
        if fault == "cut":
            self.close_connection = True
            return
        if fault == "slow":
            time.sleep(0.5)
        if fault.isdigit():
            self._reply(b"no: " + self.headers.get("Authorization", "").encode(), int(fault))
            return
        if fault == "html":
            self._reply(b"<html>welcome</html>")
            return
        if "messages" in body:
            self._reply(json.dumps(server.answer(body)).encode())
            return
        if any("refuse" in row["source"] for row in body["rows"]):
            self._reply(b"too long\nfor me", 422)
            return
        rows = [server.answer(row) for row in body["rows"]]
        if fault == "short":
            rows = rows[:-1]
        elif fault == "reordered":
            rows = rows[::-1]
        elif fault == "repeated":
            rows = [*rows[:-1], rows[0]]
        elif fault == "unknown":
            rows[-1]["id"] = 4711
        self._reply(json.dumps({"rows": rows}).encode(), half=fault == "half")

    def _reply(self, data: bytes, status: int = 200, *, half: bool = False) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status in (429, 503):
            self.send_header("Retry-After", self.server.retry_after)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if half else data)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


# A worker that answers the rows of a request together, the last one first. FAULT is replaced.
_PROGRAM = """
import json, sys, time
rows = []
for line in sys.stdin:
    row = json.loads(line)
    rows.append(row)
    if row["left"]:
        continue
    for row in reversed(rows):
        {fault}
        if "target" in row:
            answer = {{"keep": len(row["target"]) % 2 == 0, "reason": "odd"}}
        elif "hypotheses" in row:
            answer = {{"scores": [len(text) + len(row.get("reference", "")) for text in row["hypotheses"]]}}
        else:
            texts = {{row["source"].upper(): -1.0, "x": -0.5}}
            answer = {{"hypotheses": [{{"text": text, "score": score}} for text, score in texts.items()]}}
        print(json.dumps({{"id": row["id"], **answer}}))
    rows = []
    sys.stdout.flush()
"""


def program(folder: Path, fault: str = "pass", log: Path | None = None) -> tuple[str, ...]:
    """Write a worker and return its command. `fault` is a statement before each answer; rows are noted in `log`."""
    path = folder / "worker.py"
    note = "" if log is None else f"open({str(log)!r}, 'a').write(str(row['id']) + '\\n')\n        "
    path.write_text(_PROGRAM.format(fault=note + fault))
    return (sys.executable, "-I", str(path))
