"""How librdkafka's clients are made, log, and come by who we are; no broker is needed."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Any

import pytest

from eventbus import AuthenticationError, ConfigError, ConnectFailedError, KafkaConfig, KafkaToken, TlsConfig
from eventbus.testing import wait_until
from eventbus.threads import Deadline, StopToken

pytest.importorskip("confluent_kafka")

from confluent_kafka import KafkaError, KafkaException

from eventbus.backends.kafka.clients import client_log
from eventbus.backends.kafka.clients.client_log import ClientLog, Line, level_of
from eventbus.backends.kafka.clients.connecting import check_options, new_client
from eventbus.backends.kafka.clients.errors import ClientErrors
from eventbus.backends.kafka.clients.fork_safety import AdminClient, Consumer, Producer
from eventbus.backends.kafka.clients.login import LOGIN, Login
from eventbus.backends.kafka.clients.options import ClientOptions
from eventbus.secret_sources import SecretSource

STOP = StopToken()


def options(**config: Any) -> ClientOptions:
    return ClientOptions(KafkaConfig(brokers="127.0.0.1:1", **config), "test")


# -- every client is made by one function --------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"consumer": {"bogus.option": 1}}, "bogus.option"),
        ({"consumer": {"fetch.min.bytes": -5}}, "fetch.min.bytes"),
        ({"consumer": {"isolation.level": "none"}}, "isolation.level"),
        ({"consumer": {"session.timeout.ms": 60_000, "max.poll.interval.ms": 50_000}}, "max.poll.interval.ms"),
        ({"consumer": {"max.poll.interval.ms": "soon"}}, "max.poll.interval.ms"),
        ({"consumer": {"fetch.max.bytes": 10}}, "fetch.max.bytes"),
        ({"admin": {"socket.timeout.ms": 1}}, "socket.timeout.ms"),
        ({"admin": {"no.such": 1}}, "no.such"),
        ({"common": {"ssl.key.password": "x" * 9, "plugin.library.paths": "no-such"}}, "plugin|no-such"),
    ],
)
@pytest.mark.parametrize("protocol", ["auto", "classic"])
def test_an_option_of_any_kind_of_client_is_refused_before_the_first_connect(
    config: dict[str, Any], words: str, protocol: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_options(options(**config, group_protocol=protocol))


@pytest.mark.parametrize("protocol", ["auto", "classic", "consumer"])
def test_what_librdkafka_takes_is_taken(protocol: str) -> None:
    taken = {"max.poll.interval.ms": 30_000, "fetch.min.bytes": 5}
    before = threading.active_count()
    given = options(consumer=taken, group_protocol=protocol, user="u", password=lambda: "p")
    given.login.refresh(Deadline(5.0), STOP)
    check_options(given)
    check_options(options(group_protocol=protocol, token=lambda: "t"))
    assert threading.active_count() == before


def test_a_short_poll_interval_shortens_the_session_that_nobody_has_set() -> None:
    def of(consumer: dict[str, Any]) -> Any:
        return options(consumer=consumer).consumer("g", protocol="classic", start="earliest")["session.timeout.ms"]

    assert (of({}), of({"max.poll.interval.ms": 30_000}), of({"max.poll.interval.ms": 10**6})) == (
        45_000,
        30_000,
        45_000,
    )
    assert of({"max.poll.interval.ms": "30000"}) == 30_000
    assert of({"max.poll.interval.ms": 30_000, "session.timeout.ms": 40_000}) == 40_000


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (KafkaException(KafkaError(KafkaError._INVALID_ARG, "bad")), ConfigError),
        (KafkaException(KafkaError(KafkaError._CRIT_SYS_RESOURCE, "no threads")), ConnectFailedError),
        (KafkaException(KafkaError(KafkaError.SASL_AUTHENTICATION_FAILED, "no token")), AuthenticationError),
        *((kind("bad"), ConfigError) for kind in (TypeError, ValueError, SystemError, RuntimeError, OverflowError)),
    ],
    ids=repr,
)
def test_whatever_the_binding_raises_is_typed(raised: Exception, kind: type[Exception]) -> None:
    def refuse(given: dict[str, Any]) -> Any:
        raise raised

    with pytest.raises(kind) as caught:
        new_client(refuse, options().producer, ClientErrors("x"))
    assert type(caught.value) is kind
    assert caught.value.__cause__ is raised


def test_no_secret_stands_in_a_refusal() -> None:
    def refuse(given: dict[str, Any]) -> Any:
        raise ValueError(f"bad {given['sasl.password']} {given['ssl.key.password']}")

    given = options(user="u", password="hunter2", common={"ssl.key.password": "hunter3"}).producer
    with pytest.raises(ConfigError) as caught:
        new_client(refuse, given, ClientErrors("x"))
    assert "bad *** ***" in str(caught.value)


# -- PEM -----------------------------------------------------------------------------------------

PEM = "Bag Attributes\n-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----\n"


def test_a_pem_is_a_text_or_a_path() -> None:
    given = options(tls=TlsConfig(ca=PEM, certificate="/c.pem", key=PEM)).admin
    assert (given["ssl.ca.pem"], given["ssl.certificate.location"], given["ssl.key.pem"]) == (PEM, "/c.pem", PEM)
    assert not {"ssl.ca.location", "ssl.certificate.pem", "ssl.key.location"} & given.keys()
    both = options(tls=TlsConfig(certificate=PEM)).admin
    assert both["ssl.certificate.pem"] == both["ssl.key.pem"] == PEM
    assert "hunter2" not in repr(TlsConfig(ca=PEM, certificate=PEM, key=PEM))
    for bad in (f"{PEM}\0", "two\nlines", 5):
        with pytest.raises(ConfigError) as caught:
            TlsConfig(ca=bad)  # type: ignore[arg-type]
        assert "hunter2" not in str(caught.value)


# -- log lines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facility", "level", "text", "expected"),
    [
        ("MAXPOLL", 40, "Application maximum poll interval exceeded", logging.WARNING),
        ("SESSTMOUT", 30, "session timed out", logging.WARNING),
        ("GETSUBSCRIPTIONS", 20, "x", logging.INFO),
        ("FAIL", 40, "Connect failed", logging.DEBUG),
        ("CONFWARN", 30, "linger.ms is a producer property and will be ignored by this consumer", logging.DEBUG),
        ("GETPID", 30, "Failed to acquire idempotence PID: retrying", logging.DEBUG),
        ("FETCH", 10, "x", logging.DEBUG),
    ],
)
def test_each_line_is_logged_at_its_own_level(facility: str, level: int, text: str, expected: int) -> None:
    assert level_of(Line(level, facility, "c", text)) == expected


def written(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == client_log.__name__]


def quiet() -> bool:
    return not any(thread.name == "eventbus.kafka-log" for thread in threading.enumerate())


def test_a_line_is_written_by_a_thread_of_its_own_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    lines = ClientLog()
    for number in range(5):
        lines.log(30, "%s [%s] %s", "MAXPOLL", "bus#1", f"[thrd:main]: [thrd:main]: exceeded by {number} ms")
    wait_until(quiet, 5.0)
    lines.log(30, "%s [%s] %s", "SESSTMOUT", "bus#1", "[thrd:main]: timed out")
    wait_until(quiet, 5.0)
    assert written(caplog) == ["bus#1: MAXPOLL: exceeded by 0 ms", "bus#1: SESSTMOUT: timed out (4 repeats not shown)"]


def test_a_handler_that_blocks_holds_up_no_poll_and_costs_the_oldest_lines() -> None:
    released, entered = threading.Event(), threading.Event()

    class Blocking(logging.Handler):
        texts: list[str] = []  # noqa: RUF012

        def emit(self, record: logging.LogRecord) -> None:
            entered.set()
            released.wait(10.0)
            self.texts.append(record.getMessage())

    handler, logger, lines = Blocking(), logging.getLogger(client_log.__name__), ClientLog()
    logger.addHandler(handler)
    try:
        lines.log(30, "", "A", "c", "first")
        assert entered.wait(5.0)
        for number in range(5_000):
            lines.log(30, "", f"B{number}", "c", "x")
        released.set()
        wait_until(quiet, 10.0)
    finally:
        logger.removeHandler(handler)
    assert handler.texts[0] == "c: A: first"
    assert handler.texts[-1] == "c: B4999: x"
    assert len(handler.texts) == 1_001


def test_lines_come_from_real_clients_unless_debugging_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    given = options(common={"linger.ms": 5})
    consumer = new_client(Consumer, given.consumer("g", protocol="classic", start="latest"), ClientErrors("x"))
    wait_until(lambda: consumer.poll(0.05) or any("CONFWARN" in line for line in written(caplog)), 5.0)
    consumer.close()
    seen: list[dict[str, Any]] = []
    new_client(seen.append, given.admin, ClientErrors("x"))
    assert "logger" not in seen[0]


def test_a_poll_returns_where_debugging_is_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    given = options(common={"debug": "all"}).consumer("g", protocol="classic", start="latest")
    consumer = new_client(Consumer, given, ClientErrors("x"))
    for _ in range(20):
        consumer.poll(0)
    consumer.close()
    wait_until(lambda: "%7|" in capfd.readouterr().err, 5.0)


# -- who we are ----------------------------------------------------------------------------------


def login(**config: Any) -> Login:
    return Login(KafkaConfig(**config))


def test_a_client_is_made_with_what_is_known_now() -> None:
    passwords = iter(["one", "two"])
    one = login(user="u", password=lambda: next(passwords), sasl_mechanism="SCRAM-SHA-512")
    for password in ("one", "two"):
        one.refresh(Deadline(5.0), STOP)
        given = one.options()
        assert (given["sasl.username"], given["sasl.password"], given[LOGIN]) == ("u", password, one)
    assert LOGIN not in login(user="u", password="p").options()
    assert login().options() == {}


class Client:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def take_password(self, user: str, password: str) -> None:
        self.told.append((user, password))


def test_a_refusal_asks_anew_at_most_once_a_second_and_tells_every_living_client() -> None:
    answers = iter(["one", "one", "two", "three"])
    one, client, gone = login(user="u", password=lambda: next(answers)), Client(), Client()
    one.register(client)
    one.register(gone)
    del gone
    one.refresh(Deadline(5.0), STOP)
    one.refused()
    one.refused()
    assert client.told == [("u", "one")]
    one._asked_at -= 2.0
    wait_until(lambda: one.refused() or len(client.told) == 2, 5.0)
    assert client.told == [("u", "one"), ("u", "two")]


def test_trouble_is_told_where_nobody_waits_for_it() -> None:
    told: list[Exception] = []
    one = login(user="u", password=lambda: str(1 / 0))
    one.on_trouble = told.append
    with pytest.raises(ConnectFailedError, match="the callback for 'password' failed: ZeroDivisionError"):
        one.refresh(Deadline(5.0), STOP)
    assert told == []
    one.refused()
    wait_until(lambda: told, 5.0)
    assert isinstance(told[0].__cause__, ZeroDivisionError)


def test_a_token_is_asked_for_when_half_of_its_life_is_over() -> None:
    asked: list[float] = []

    def token() -> KafkaToken:
        asked.append(time.time())
        return KafkaToken(f"t{len(asked)}", time.time() + 100.0, "p", {"a": "b"})

    one = login(token=token)
    assert one.token_of_now("")[0] == "t1"
    assert one.token_of_now("")[0] == "t1"
    one._since -= 150.0
    value, expires_at, principal, extensions = one.token_of_now("")
    assert (value, principal, extensions) == ("t2", "p", {"a": "b"})
    assert 90.0 < expires_at - time.time() <= 100.0


def test_a_callback_that_hangs_costs_a_client_half_a_second_and_its_old_token_goes_on() -> None:
    released = threading.Event()
    tokens = [KafkaToken("old", time.time() + 100.0)]

    def token() -> KafkaToken:
        return tokens.pop() if tokens else (released.wait(20.0), KafkaToken("new", time.time() + 100.0))[1]

    one = login(token=token)
    try:
        assert one.token_of_now("")[0] == "old"
        one._since -= 150.0
        assert one.token_of_now("")[0] == "old"
        assert len([thread for thread in threading.enumerate() if thread.name == "eventbus.kafka-login"]) == 1
    finally:
        released.set()
    wait_until(lambda: one.token_of_now("")[0] == "new", 5.0)


@pytest.mark.parametrize("answer", [b"x", None, 5, "", "two\nlines", ("t", 5)], ids=repr)
def test_what_is_no_token(answer: object) -> None:
    with pytest.raises(AuthenticationError, match="the token is none"):
        login(token=lambda: answer).refresh(Deadline(5.0), STOP)


def test_no_client_is_made_without_a_token() -> None:
    """Its constructor would wait for one, on a thread that others wait for."""
    made: list[dict[str, Any]] = []

    def make(given: dict[str, Any]) -> Client:
        made.append(given)
        return Client()

    given = options(token=lambda: KafkaToken("t", time.time() - 5.0))
    with pytest.raises(AuthenticationError, match="has expired at 20"):
        new_client(make, given.admin, ClientErrors("x"))
    with pytest.raises(AuthenticationError, match="no token yet"):
        new_client(make, options(token=lambda: str(1 / 0)).admin, ClientErrors("x"))
    new_client(make, options(token="t").admin, ClientErrors("x"))
    assert [LOGIN in one for one in made] == [False]


def test_a_jwt_says_when_it_ends_and_whom_it_is_for() -> None:
    from eventbus.testing.servers.kafka_tokens import unsecured_token

    token = KafkaToken.from_text(unsecured_token("alice", 100.0))
    assert token.principal == "alice"
    assert 90.0 < token.expires_at - time.time() <= 100.0
    for text in (
        "opaque",
        "a.b.c",
        "a.e30.c",
        "a.W10.c",
        unsecured_token("x", exp="never"),
        unsecured_token("x", exp=True),
    ):
        assert 290.0 < KafkaToken.from_text(text).expires_at - time.time() <= 300.0
    assert "opaque" not in repr(KafkaToken("opaque", 1.0, "p", {"secret": "opaque"}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": 5},
        {"value": "a\0b"},
        {"expires_at": "soon"},
        {"expires_at": float("nan")},
        {"principal": None},
        {"extensions": {"auth": "x"}},
        {"extensions": {"a-b": "x"}},
        {"extensions": {"a": ""}},
        {"extensions": {"a": 5}},
    ],
)
def test_a_token_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        KafkaToken(**{"value": "t", "expires_at": 1.0, **wrong})


def test_a_password_whose_beginning_librdkafka_would_leave_out_is_said_to_be_none() -> None:
    given = options(user="u", password=lambda: " secret")
    with pytest.raises(AuthenticationError, match="begins with a blank"):
        given.login.refresh(Deadline(5.0), STOP)


@pytest.mark.parametrize("made", [Producer, AdminClient])
def test_real_clients_take_a_new_password(made: Any) -> None:
    given = options(user="u", password=lambda: "p")
    given.login.refresh(Deadline(5.0), STOP)
    client = new_client(made, given.producer if made is Producer else given.admin, ClientErrors("x"))
    client.take_password("u", "new")


def test_a_consumer_takes_a_new_password_when_its_owner_polls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given = options(user="u", password="p").consumer("g", protocol="classic", start="latest")
    consumer, taken = new_client(Consumer, given, ClientErrors("x")), []
    monkeypatch.setattr(Consumer, "set_sasl_credentials", lambda self, *login: taken.append(login))
    consumer.take_password("u", "new")
    assert taken == []
    consumer.poll(0)
    consumer.take_password("u", "newer")
    consumer.consume(1, 0)
    consumer.poll(0)
    assert taken == [("u", "new"), ("u", "newer")]
    consumer.close()


# -- asking for secrets --------------------------------------------------------------------------


def test_a_call_that_is_under_way_is_not_made_twice() -> None:
    released, calls = threading.Event(), []
    source = SecretSource("token", lambda: (calls.append(1), released.wait(10.0))[1], "eventbus.test")
    with pytest.raises(ConnectFailedError, match="not be read in time"):
        source.ask(Deadline(0.05), STOP)
    asked = source.begin()
    assert asked is source.begin()
    released.set()
    assert asked.done.wait(5.0)
    assert calls == [1]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_asks_itself() -> None:
    released = threading.Event()
    source = SecretSource("token", lambda: (released.wait(10.0), os.getpid())[1], "eventbus.test")
    asked = source.begin()
    child = os.fork()
    if child == 0:
        released.set()
        os._exit(0 if source.ask(Deadline(5.0), STOP) == os.getpid() else 1)
    released.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert asked.done.wait(5.0)
