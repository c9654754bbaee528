"""Workers that are asked: what counts as an answer, what is asked again, and what it may cost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqkd.corpus.locks import Part
from seqkd.errors import InputError, WorkError
from seqkd.interop.asking.answers import REJECTED, Answer
from seqkd.interop.asking.asker import Asker
from seqkd.interop.asking.cache import Cache, Spent
from seqkd.interop.asking.limits import Limits
from seqkd.interop.workers import FilterSettings, Role, ScorerSettings, TeacherSettings, check_worker
from tests.unit.interop.worker_server import Row, Server, program

TEXTS = {row: f"eins zwei {row}" for row in range(10)}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as found:
        yield found


def asker(
    folder: Path, settings: Any = None, *, role: Role = "teacher", part: Part | None = None, **values: Any
) -> Asker:
    made = settings or TeacherSettings(**{"batch": 4, "timeout": 0.3, **values})
    return Asker(made, role, folder, part=part, sleep=lambda _: None)


def ask(found: Asker, texts: dict[int, str] = TEXTS) -> list[Answer]:
    """Ask and close."""
    try:
        return found.ask([found.question(row, {"source": text}) for row, text in texts.items()])
    finally:
        found.close()


def expected(texts: dict[int, str] = TEXTS) -> list[Answer]:
    bare = {"score": None, "logprob": None, "ended": "unknown"}
    return [
        {"hypotheses": [{"text": one, **bare} for one in (" ".join(text.split()[::-1]), text.upper())]}
        for text in texts.values()
    ]


def test_answers_are_joined_by_id_and_faults_that_pass_are_tried_again(tmp_path: Path) -> None:
    faults = ["429", "reordered", "500", "cut", "slow", "half", "503", "reordered", ""]
    with Server(faults=faults) as server:
        assert ask(asker(tmp_path, endpoint=server.url)) == expected()
        assert server.faults == []
    assert len(server.requests) == 9


def test_an_answered_row_is_never_asked_again(tmp_path: Path, server: Server) -> None:
    first = asker(tmp_path, endpoint=server.url, parallel=3)
    twice = {**TEXTS, **{row + 100: text for row, text in TEXTS.items()}}
    assert ask(first, twice) == expected(twice)
    assert sorted(server.asked) == list(TEXTS)
    # By another process, with a part of the work, other limits and other ids.
    more = {**{row + 7: text for row, text in TEXTS.items()}, 3: "neu"}
    again = asker(tmp_path, endpoint=server.url, part=Part(2, 3), retries=1, rate=5.0, batch=1)
    assert ask(again, more) == expected(more)
    assert server.asked[len(TEXTS) :] == [3]
    # Other versions, options and roles are other workers.
    for values in ({"version": "2"}, {"options": {"beam": 4}}, {"name": "mine"}):
        ask(asker(tmp_path, endpoint=server.url, **values), {0: TEXTS[0]})
    assert server.asked[len(TEXTS) + 1 :] == [0, 0, 0]
    assert server.requests[-2]["beam"] == 4


@pytest.mark.parametrize(
    ("fault", "message", "kept"),
    [
        ("short", "row 3: was not answered", 3),
        ("repeated", "row 0: was answered twice", 0),
        ("unknown", r"row 4711: was answered, but not asked in this request \(rows 0, 1, 2, 3\)", 0),
        ("html", "row 0: the reply is not JSON: '<html>welcome</html>'", 0),
    ],
)
def test_an_answer_that_cannot_be_used_is_one_clear_error(tmp_path: Path, fault: str, message: str, kept: int) -> None:
    with Server(faults=[fault]) as server:
        with pytest.raises(WorkError, match=rf"(?s)worker http.*{message}.*to do: repair"):
            ask(asker(tmp_path, endpoint=server.url))
        assert len(server.requests) == 1
        assert ask(asker(tmp_path, endpoint=server.url)) == expected()
    assert len(server.asked) == 4 + len(TEXTS) - kept


def test_an_answer_of_another_form_names_the_row(tmp_path: Path) -> None:
    forms: list[tuple[Role, dict[str, Any], dict[str, Any], str]] = [
        ("teacher", {"source": "a"}, {"text": "a"}, r"hypotheses.: \[\{.text.: \.\.\.\}\]\}, found"),
        ("teacher", {"source": "a"}, {"hypotheses": [{"text": "a", "score": float("nan")}]}, "finite numbers or null"),
        ("teacher", {"source": "a"}, {"hypotheses": [{"text": "\ud800"}]}, "a text in Unicode"),
        ("scorer", {"source": "a", "hypotheses": ["b", "c"]}, {"scores": [1]}, "has 1 scores for 2 hypotheses"),
        ("scorer", {"source": "a", "hypotheses": ["b"]}, {"scores": [True]}, "with finite numbers"),
        ("filter", {"source": "a", "target": "b"}, {"keep": 1}, "true or false"),
    ]
    kinds = {"teacher": TeacherSettings, "scorer": ScorerSettings, "filter": FilterSettings}
    for role, body, answer, message in forms:
        with Server(lambda row: {"id": row["id"], **answer}) as server:  # noqa: B023
            found = asker(tmp_path, kinds[role](endpoint=server.url), role=role)
            with pytest.raises(WorkError, match=f"row 5: .*{message}"):
                found.ask([found.question(5, body)])
            found.close()


def test_a_refused_row_is_rejected_alone_with_its_reason(tmp_path: Path, server: Server) -> None:
    texts = {**TEXTS, 6: "please refuse"}
    for _ in range(2):
        found = asker(tmp_path, endpoint=server.url)
        answers = ask(found, texts)
        assert answers[6] == {REJECTED: "HTTP 422: too long for me"}
        assert found.notes.rejected == {6: "HTTP 422: too long for me"}
        assert [one for row, one in enumerate(answers) if row != 6] == [
            one for row, one in enumerate(expected()) if row != 6
        ]
    assert len(server.requests) == 3 + 4  # the request with the row, and each of its rows alone


def test_a_wrong_key_stops_the_run_and_is_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_KEY", "sesame-open")
    with Server(faults=["401", "400"]) as server:
        settings: dict[str, Any] = {"endpoint": server.url, "key": "SERVICE_KEY", "batch": 16}
        with pytest.raises(InputError, match=r"HTTP 401: no: Bearer \*\*\*") as caught:
            ask(asker(tmp_path, **settings))
        assert "sesame" not in str(caught.value)
        answers = ask(asker(tmp_path, **settings), {0: "a"})
        assert answers == [{REJECTED: "HTTP 400: no: Bearer ***"}]
        assert {headers["Authorization"] for headers in server.headers} == {"Bearer sesame-open"}
    assert len(server.requests) == 2
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"sesame" in path.read_bytes()]


def test_a_service_that_dies_costs_no_answer(tmp_path: Path) -> None:
    with Server() as server:
        port = server.server_address[1]
        ask(asker(tmp_path, endpoint=server.url), {row: TEXTS[row] for row in range(4)})
    with pytest.raises(
        WorkError, match=r"(?s)row 4: no answer after 3 attempts; the last one: ConnectError.*run the same"
    ):
        ask(asker(tmp_path, endpoint=server.url, retries=2))
    with Server(port=port) as revived:
        assert ask(asker(tmp_path, endpoint=revived.url)) == expected()
    assert sorted(revived.asked) == list(range(4, 10))


def test_the_budget_outlives_a_run(tmp_path: Path, server: Server) -> None:
    values: dict[str, Any] = {"endpoint": server.url, "max_requests": 2}
    with pytest.raises(WorkError, match=r"budget is used up: max_requests is 2, and the next request would make it 3"):
        ask(asker(tmp_path, **values))
    with pytest.raises(WorkError, match="budget is used up"):
        ask(asker(tmp_path, **values))
    assert len(server.requests) == 2
    with pytest.raises(WorkError, match=r"max_characters is 50, and the next request would make it 66"):
        ask(asker(tmp_path, endpoint=server.url, version="2", max_characters=50, batch=3))
    prices: dict[str, Any] = {"max_cost": 0.5, "price_per_request": 0.1, "price_per_million": 10_000.0}
    with pytest.raises(WorkError, match=r"max_cost is 0.5, and the next request would make it 0.86"):
        ask(asker(tmp_path, endpoint=server.url, version="3", batch=3, **prices))
    values["max_requests"] = 4
    assert ask(asker(tmp_path, **values)) == expected()
    assert sorted(server.asked[-2:]) == [8, 9]


def test_limits_are_shared_by_machines() -> None:
    settings = TeacherSettings(command=("x",), max_requests=30, rate=2.0)
    clock = [0.0]
    limits = Limits(
        settings,
        4,
        own=Spent(2, 20),
        others=Spent(10, 100),
        now=lambda: clock[0],
        sleep=lambda seconds: clock.__setitem__(0, clock[0] + seconds),
    )
    times = []
    for _ in range(3):  # (30 - 10) / 4 - 2
        limits.admit(1)
        times.append(clock[0])
    assert times == [0.0, 2.0, 4.0]
    assert limits.take_unnoted() == Spent(3, 3)
    assert limits.take_unnoted() == Spent()
    with pytest.raises(WorkError, match=r"max_requests is 30, of which this machine may use 5, .* make it 6"):
        limits.admit(1)


def test_the_cache_leaves_out_damaged_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = Cache(tmp_path / "a", {"name": "x"}, None, now=lambda: "2026-01-01T00:00:00Z")
    first.add({"k1": {"keep": True}, "k2": {"keep": False}}, Spent(1, 5))
    first.close()
    (path,) = (tmp_path / "a").glob("*.jsonl")
    data = path.read_bytes()
    path.write_bytes(data.replace(b'{"keep": true}', b'{"keep": tr\x00e}') + b'{"key": "k3", "time"')
    again = Cache(tmp_path / "a", {"name": "x"}, None)
    assert again.find("k1") is None
    assert again.find("k3") is None
    stored = again.find("k2")
    assert stored is not None
    assert (stored.answer, stored.time) == ({"keep": False}, "2026-01-01T00:00:00Z")
    assert again.own == Spent(1, 5)
    again.add({"k1": {"keep": True}}, Spent())
    assert again.find("k1") is not None
    again.close()
    assert "1 damaged lines are left out" in capsys.readouterr().err
    assert json.loads((tmp_path / "a" / "worker.json").read_text()) == {"name": "x"}
    other = Cache(tmp_path / "a", {"name": "x"}, Part(1, 2))
    assert (other.own, other.others) == (Spent(), Spent(1, 5))
    other.close()


def chat(*texts: str, finish: str = "stop") -> Row:
    return {"choices": [{"message": {"content": text}, "finish_reason": finish} for text in texts]}


def test_chat_completions_in_all_roles(tmp_path: Path) -> None:
    replies: dict[str, list[Row]] = {
        "Translate: {eins}": [chat(" one\n two ", "ONE"), chat("uno", "more", finish="length")],
        'Rate zwei -> ["a", "b"]': [chat('{"scores": [0.5, 2]}')],
        "Keep? drei, c": [chat('{"keep": false, "reason": "no"}'), chat("No, sorry")],
    }
    with Server(lambda body: replies[body["messages"][0]["content"]].pop(0)) as server:
        common: dict[str, Any] = {"endpoint": server.url, "form": "chat", "options": {"model": "m", "temperature": 1}}
        teacher = asker(tmp_path, TeacherSettings(**common, prompt="Translate: {{{source}}}", samples=3))
        (answer,) = ask(teacher, {0: "eins"})
        assert [(one["text"], one["ended"]) for one in answer["hypotheses"]] == [
            ("one  two", "eos"),
            ("ONE", "eos"),
            ("uno", "max_length"),
        ]
        assert [(body["model"], body["temperature"], body.get("n")) for body in server.requests] == [
            ("m", 1, 3),
            ("m", 1, None),
        ]
        scorer = asker(tmp_path, ScorerSettings(**common, prompt="Rate {source} -> {hypotheses}"), role="scorer")
        assert scorer.ask([scorer.question(0, {"source": "zwei", "hypotheses": ["a", "b"]})]) == [
            {"scores": [0.5, 2.0]}
        ]
        judge = asker(tmp_path, FilterSettings(**common, prompt="Keep? {source}, {target}"), role="filter")
        assert judge.ask([judge.question(7, {"source": "drei", "target": "c"})]) == [{"keep": False, "reason": "no"}]
        with pytest.raises(WorkError, match="row 8: the message is not JSON: 'No, sorry'"):
            asker(tmp_path / "new", judge.settings, role="filter").ask(
                [judge.question(8, {"source": "drei", "target": "c"})]
            )
        scorer.close()
        judge.close()


def test_commands_answer_the_rows_of_a_request_in_any_order(tmp_path: Path) -> None:
    found = asker(tmp_path, command=program(tmp_path, log=tmp_path / "log"), timeout=30, parallel=2)
    answers = ask(found)
    assert [one["hypotheses"][1]["text"] for one in answers] == [text.upper() for text in TEXTS.values()]
    assert [one["score"] for one in answers[0]["hypotheses"]] == [-0.5, -1.0]  # best first
    assert sorted(map(int, (tmp_path / "log").read_text().split())) == list(TEXTS)
    assert ask(asker(tmp_path, command=found.settings.command)) == answers
    assert len((tmp_path / "log").read_text().split()) == len(TEXTS)


@pytest.mark.parametrize(
    ("fault", "message", "kept"),
    [
        ("if row['id'] == 1: print('loading model...')", "row 0: a line of its standard output is not JSON: 'load", 2),
        ("if row['id'] == 1: sys.stdout.flush(); sys.exit(3)", "row 0: the command ended with exit code 3", 2),
        ("if row['id'] == 1: sys.stdout.flush(); time.sleep(60)", "row 0: no answer within 1 seconds", 2),
        ("if row['id'] == 1: row['id'] = 2", "row 2: was answered twice", 0),
    ],
)
def test_a_command_that_fails_is_one_clear_error(tmp_path: Path, fault: str, message: str, kept: int) -> None:
    broken = asker(tmp_path, command=program(tmp_path, fault), timeout=1.0, name="mine")
    with pytest.raises(WorkError, match=f"worker mine: {message}"):
        ask(broken)
    log = tmp_path / "log"
    repaired = asker(tmp_path, command=program(tmp_path, log=log), timeout=30, name="mine")
    assert len(ask(repaired)) == len(TEXTS)
    assert len(log.read_text().split()) == len(TEXTS) - kept


def test_rows_larger_than_a_pipe_do_not_block(tmp_path: Path) -> None:
    texts = {row: f"{row} " + "wort " * 4000 for row in range(20)}
    found = asker(tmp_path, command=program(tmp_path), batch=20, timeout=30)
    assert [len(one["hypotheses"][1]["text"]) for one in ask(found, texts)] == [
        len(text.strip()) for text in texts.values()
    ]


def test_a_canary_finds_a_worker_that_has_changed(tmp_path: Path) -> None:
    changed = ["eins zwei 1"]
    with Server() as server:
        found = asker(tmp_path, endpoint=server.url, canary=3)
        found.ask([found.question(row, {"source": text}) for row, text in TEXTS.items()])
        assert [question.id for question in found.firsts] == [0, 1, 2]
        assert found.count_changed(found.firsts) == 0
        old = server.answer
        server.answer = lambda row: {"id": row["id"], "hypotheses": []} if row["source"] in changed else old(row)
        assert found.count_changed(found.firsts) == 1
        assert found.ask([found.question(1, {"source": TEXTS[1]})]) == expected({1: TEXTS[1]})
        found.close()
    assert server.asked[-3:] == [0, 1, 2]


def test_settings_that_contradict_each_other() -> None:
    for values, message in (
        ({}, "either `command`, a list, or `endpoint`, a URL"),
        ({"command": ("a",), "endpoint": "http://x"}, "either `command`"),
        ({"endpoint": "x.com"}, "begins with http"),
        ({"endpoint": "https://me:secret@x.com/"}, "contains a password"),
        ({"command": ("a",), "options": {"beam": 1}}, "options: is for an endpoint"),
        ({"endpoint": "http://x", "form": "chat"}, "go together"),
        ({"command": ("a", "{model}")}, "`model` and a `command` with the word {model} go together"),
        ({"command": ("a",), "model": Path("m")}, "`model` and a `command` with the word {model} go together"),
        (
            {"endpoint": "http://x", "form": "chat", "prompt": "{target}"},
            r"\{target\} is unknown; a teacher has \{source\}",
        ),
        ({"endpoint": "http://x", "form": "chat", "prompt": "Hello"}, "contains none of"),
        ({"endpoint": "http://x", "form": "chat", "prompt": "{source"}, "write a brace that is no field twice"),
        ({"endpoint": "http://x", "samples": 2}, "samples: is for"),
        ({"endpoint": "http://x", "max_cost": 1.0}, "needs `price_per_request`"),
        ({"endpoint": "http://x", "options": {"x": float("nan")}}, "cannot be written as JSON"),
    ):
        with pytest.raises(ValueError, match=message):
            TeacherSettings(**values)
    with pytest.raises(ValueError, match="set `reference = true`"):
        ScorerSettings(endpoint="http://x", form="chat", prompt="{source} {reference}")


def test_a_worker_that_cannot_be_asked_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "worker.py"
    script.write_text("print()")
    with pytest.raises(InputError, match=r"(?s)worker.py': is not executable.*chmod"):
        check_worker(TeacherSettings(command=(str(script),)))
    with pytest.raises(InputError, match="no such program"):
        check_worker(TeacherSettings(command=("no-such-program-here",)))
    monkeypatch.delenv("SERVICE_KEY", raising=False)
    with pytest.raises(InputError, match="the environment variable SERVICE_KEY is not set"):
        check_worker(TeacherSettings(endpoint="http://x", key="SERVICE_KEY"))
    script.chmod(0o755)  # without a line that names its interpreter
    found = asker(tmp_path, command=(str(script),))
    script.write_bytes(b"\x00\x01")
    with pytest.raises(InputError, match="cannot be started"):
        ask(found)
