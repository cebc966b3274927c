"""The command line for dead letters: what it prints, what it does, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from eventbus import EventBus, EventBusConfig, Message, NatsConfig, Reject
from eventbus.cli import main
from eventbus.cli.output import hidden, visible
from eventbus.testing import wait_until
from eventbus.testing.memory import MemoryOutages

URL = "memory://cli"
TOPIC = "dlq.g.t"


@pytest.fixture
def bus() -> Iterator[EventBus]:
    made = EventBus(URL)
    made.open()
    yield made
    made.close(5.0)
    MemoryOutages("cli").forget()


@pytest.fixture
def letters(bus: EventBus) -> list[str]:
    """The ids of three dead letters."""

    def refuse(message: Message) -> None:
        raise Reject("\x1b[31mno such customer" if message.text() == "1" else "not in stock")

    sub = bus.subscribe("t", refuse, group="g")
    receipts = bus.publish_many([Message("t", str(number), key="k") for number in range(3)])
    wait_until(lambda: bus.get_statistics().dead_lettered == 3)
    wait_until(lambda: sub.status().in_hand == 0)
    bus.unsubscribe(sub)
    return [receipt.id for receipt in receipts]


def dlq(*words: str) -> int:
    return main(["dlq", *words, "--url", URL])


def lines(capsys: pytest.CaptureFixture[str]) -> list[Any]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_list_tells_each_topic_and_how_many_it_holds(letters: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert dlq("list") == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["TOPIC", "MESSAGES", "OLDEST", "NEWEST"]
    assert row.split()[:2] == [TOPIC, "3"]
    assert dlq("list", "--json") == 0
    (found,) = lines(capsys)
    assert (found["topic"], found["messages"]) == (TOPIC, 3)
    assert found["oldest"] <= found["newest"]


def test_show_tells_the_letters_that_are_wanted(letters: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert dlq("show", TOPIC) == 0
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()] == ["ID", *letters]
    assert "\x1b" not in table, "a reason may be anybody's text"
    assert dlq("show", TOPIC, "--reason", "CUSTOMER", "--json", "--payload") == 0
    (row,) = lines(capsys)
    assert (row["id"], row["topic"], row["key"], row["attempts"], row["payload"]) == (letters[1], "t", "k", "1", "1")
    assert row["error"] == "eventbus.errors.Reject"
    assert dlq("show", TOPIC, "--limit", "2", "--json") == 0
    assert len(lines(capsys)) == 2


def test_replay_publishes_what_is_wanted_and_says_how_much(
    bus: EventBus, letters: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    handled: list[Message] = []
    bus.subscribe("t", handled.append, group="g")
    assert dlq("replay", TOPIC, "--dry-run", "--json") == 0
    assert [row["id"] for row in lines(capsys)] == letters
    assert not handled
    assert dlq("replay", TOPIC, "--id", letters[2], "--json") == 0
    (counts,) = lines(capsys)
    assert (counts["replayed"], counts["skipped"], counts["failed"]) == (1, 2, 0)
    wait_until(lambda: [message.id for message in handled] == [letters[2]])
    assert dlq("replay", TOPIC) == 0
    assert capsys.readouterr().out.startswith("3 replayed, 1 duplicates")
    wait_until(lambda: len(handled) == 3)
    bus.publish(TOPIC, "x", headers=[("Eventbus-Dead-Topic", b"no name")])
    assert dlq("replay", TOPIC) == 1
    assert "bad topic" in capsys.readouterr().err


def test_an_interrupted_replay_says_what_it_has_done(
    letters: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, progress: Any, **options: Any) -> None:
        from eventbus import ReplayReport

        progress(ReplayReport(replayed=2))
        raise KeyboardInterrupt

    monkeypatch.setattr(EventBus, "replay_dead_letters", interrupted)
    assert dlq("replay", TOPIC) == 130
    told = capsys.readouterr()
    assert told.out.startswith("2 replayed")
    assert "interrupted" in told.err


def test_purge_deletes_only_dead_letters_and_only_with_yes(
    bus: EventBus, letters: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert dlq("purge", TOPIC) == 2
    assert "--yes" in capsys.readouterr().err
    assert dlq("purge", TOPIC, "--yes") == 0
    assert capsys.readouterr().out == f"3 deleted from {TOPIC}\n"
    assert list(bus.read(TOPIC)) == []
    bus.publish("orders", "x")
    assert dlq("purge", "orders", "--yes") == 1
    assert "no dead letters" in capsys.readouterr().err


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_topic_that_holds_nothing_is_told_for_it_may_be_a_slip(
    bus: EventBus, letters: list[str], capsys: pytest.CaptureFixture[str], as_json: tuple[str, ...]
) -> None:
    assert dlq("show", TOPIC, "--reason", "nothing of that kind", *as_json) == 0
    assert capsys.readouterr() == ("", "")
    bus.purge_dead_letters(TOPIC)
    for verb, code in (("show", 1), ("replay", 0), ("replay --dry-run", 0), ("purge --yes", 0)):
        assert dlq(*verb.split(), TOPIC, *as_json) == code
        assert f"{TOPIC} holds nothing, or is not there: `dlq list` names those that hold something" in (
            capsys.readouterr().err
        )
    assert dlq("replay", TOPIC, "--start", "0:0", *as_json) == 0
    assert "holds nothing" not in capsys.readouterr().err, "there is nothing new"


def test_how_it_ends(bus: EventBus, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main([]) == 2
    assert main(["dlq", "show"]) == 2
    assert main(["--help"]) == 0
    assert dlq("show", "dlq.none") == 1
    assert dlq("show", TOPIC, "--limit", "-1") == 2
    assert dlq("show", TOPIC, "--limit", "9" * 30) == 1
    for bad in ("-1", "nan", "soon"):
        assert dlq("list", "--timeout", bad) == 2
    for bad in ("12", "0:", ":3", "0:x", "0:-1"):
        assert dlq("replay", TOPIC, "--start", bad) == 2
    assert main(["dlq", "list", "--url", "what://a"]) == 2
    monkeypatch.delenv("EVENTBUS_URL", raising=False)
    assert main(["dlq", "list"]) == 2
    monkeypatch.setenv("EVENTBUS_URL", URL)
    assert main(["dlq", "list"]) == 0
    assert "Traceback" not in capsys.readouterr().err


PROGRAM = """
import sys
from eventbus import EventBus
from eventbus.cli import main
with EventBus("memory://cli-pipes") as bus:
    for number in range(3000):
        bus.publish_nowait("dlq.g.t", "x", key="\\u2603", headers=[("Eventbus-Dead-Topic", b"t")])
    bus.flush()
    code = main(["dlq", *sys.argv[1:], "--url", "memory://cli-pipes"])
raise SystemExit(code)
"""


@pytest.mark.parametrize(
    ("words", "where", "code", "told"),
    [
        ("show dlq.g.t --limit 3000", "| head -n 1; exit ${PIPESTATUS[0]}", 1, ""),
        ("show dlq.g.t", ">&-", 0, ""),
        ("show dlq.g.t", "> /dev/full", 1, "No space left"),
        ("replay dlq.g.t --limit 3", "> /dev/full", 1, "No space left"),
        ("replay dlq.g.t --limit 3", "2>&-", 0, ""),
        ("replay dlq.g.t --limit 3", "2> /dev/full", 0, ""),
        ("replay dlq.g.t --limit 3", "> /dev/full 2> /dev/full", 1, ""),
    ],
)
def test_output_that_nobody_takes(words: str, where: str, code: int, told: str) -> None:
    line = f"{sys.executable} -c '{PROGRAM}' {words} {where}"
    ended = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == code, ended.stderr
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr, ended.stderr


def test_what_a_terminal_cannot_show_is_shown_as_escapes() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, "show", "dlq.g.t", "--limit", "1"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "\\u2603" in ended.stdout


def test_a_replay_goes_on_where_another_one_ended(
    bus: EventBus, letters: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert dlq("replay", TOPIC, "--limit", "2") == 0
    _, _, start = capsys.readouterr().err.partition("--start ")
    assert dlq("replay", TOPIC, "--json", "--start", *start.split()) == 0
    (counts,) = lines(capsys)
    assert (counts["replayed"], counts["duplicates"]) == (1, 0)
    assert [f"{one}:{offset}" for one, offset in counts["next"].items()] != start.split()


def test_nobody_answers_and_no_secret_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dlq", "list", "--url", "nats://me:pa%24%24word@127.0.0.1:1?connect_timeout=0.2"]) == 1
    told = capsys.readouterr()
    assert "pa$$word" not in told.err + told.out
    assert "pa%24%24word" not in told.err + told.out
    for text in ("login me:s3cret failed", "s3cret"):
        assert "s3cret" not in hidden(text, "kafka://me:s3cret@a:1,b:2?group=x")
    assert hidden("the token abcd", "nats://a?token=abcd") == "the token ***"
    for source in (
        {"url": "nats://me:s3cret@a"},
        {"backend": "kafka", "password": "s3cret"},
        {"backend": "kafka", "common": {"ssl.key.password": "s3cret"}},
        EventBusConfig(backend=NatsConfig(servers=("nats://a", "nats://b"), user="me", password="s3cret")),
    ):
        assert hidden("me s3cret", source) == "me ***"


def test_secrets_of_the_environment_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTBUS_USER", "me")
    monkeypatch.setenv("EVENTBUS_PASSWORD", "s3cret")
    monkeypatch.setenv("EVENTBUS_TEST_LONG", "1")
    assert hidden("me s3cret 1", "kafka://a") == "me *** 1"


def test_what_is_shown_moves_no_cursor() -> None:
    assert visible("a\x1b[2J\u202e\nb") == "a\\x1b[2J\\u202e\\nb"
