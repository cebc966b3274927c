"""Connecting to Kafka: every way to fail ends in a typed error in time, names the cause, and leaves nothing behind."""

from __future__ import annotations

import http.server
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from eventbus import AuthenticationError, ConfigError, ConnectFailedError, KafkaConfig, TlsConfig
from eventbus.backends.kafka.clients.api_versions import examine, speaks
from eventbus.backends.kafka.clients.connecting import (
    check_options,
    connected_admin,
    discard,
    drop,
    new_client,
)
from eventbus.backends.kafka.clients.errors import ClientErrors
from eventbus.backends.kafka.clients.fork_safety import Producer
from eventbus.backends.kafka.clients.options import ClientOptions
from eventbus.testing import Certificates, KafkaServer, MockKafka, NatsServer, TcpProxy, wait_until
from eventbus.testing.plugin import skip_or_fail
from eventbus.testing.ports import free_port, release_port
from eventbus.threads import Stopped, StopToken

TIMEOUT = 1.0
PROMPT = 2.5
"""Seconds in which a refusal is known: Kafka itself holds back the answer to a wrong password for 0.3 s."""


def connect(stop: StopToken | None = None, timeout: float = TIMEOUT, **config: Any) -> tuple[Any, ClientErrors]:
    errors = ClientErrors("test.admin")
    options = ClientOptions(KafkaConfig(**config), "test")
    return connected_admin(options, errors, timeout, stop or StopToken()), errors


def succeeds(**config: Any) -> float:
    """Returns how long the connect took."""
    started = time.monotonic()
    producer, errors = connect(timeout=10.0, **config)
    took = time.monotonic() - started
    try:
        assert (errors.refused, errors.quiet) == (None, False)
        assert producer.list_topics(timeout=5.0).brokers
    finally:
        drop([producer], "test")
    return took


def fails(**config: Any) -> ConnectFailedError:
    """At the deadline."""
    return _fails(TIMEOUT, TIMEOUT + 0.3, config)


def refused(**config: Any) -> AuthenticationError:
    """Long before the deadline."""
    error = _fails(10.0, PROMPT, config)
    assert isinstance(error, AuthenticationError)
    assert error.server_spoke
    return error


def _fails(timeout: float, within: float, config: dict[str, Any]) -> ConnectFailedError:
    started = time.monotonic()
    with pytest.raises(ConnectFailedError) as caught:
        connect(timeout=timeout, **config)
    assert time.monotonic() - started < within
    return caught.value


@contextmanager
def serving(**options: Any) -> Iterator[KafkaServer]:
    with skip_or_fail():
        server = KafkaServer(**options)
    try:
        with skip_or_fail():
            server.start()
        yield server
    finally:
        server.close()


# -- servers -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain() -> Iterator[KafkaServer]:
    with serving(settings={"auto.create.topics.enable": True}) as server:
        yield server


@pytest.fixture(scope="module")
def with_password() -> Iterator[KafkaServer]:
    with serving(user="alice", password="s3cret") as server:
        yield server


@pytest.fixture(scope="module")
def scram_over_tls(certificates: Certificates) -> Iterator[KafkaServer]:
    with serving(user="alice", password="s3cret", mechanism="SCRAM-SHA-512", tls=certificates) as server:
        yield server


@pytest.fixture(scope="module")
def mutual_tls(certificates: Certificates) -> Iterator[KafkaServer]:
    with serving(tls=certificates, verify_clients=True) as server:
        yield server


@pytest.fixture
def web_server() -> Iterator[str]:
    class Quiet(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(5.0)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """The kernel takes its connections, nobody reads."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def full_server() -> Iterator[str]:
    """Its queue is full: the kernel drops the packets of whoever wants to connect."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            link = stack.enter_context(socket.socket())
            link.setblocking(False)
            link.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def dead_port() -> Iterator[str]:
    port = free_port()
    yield f"127.0.0.1:{port}"
    release_port(port)


# -- it works ------------------------------------------------------------------------------------


@pytest.mark.kafka
def test_a_broker_without_security(plain: KafkaServer) -> None:
    assert succeeds(brokers=plain.bootstrap) < PROMPT


@pytest.mark.kafka
def test_user_and_password(with_password: KafkaServer) -> None:
    assert succeeds(brokers=with_password.bootstrap, user="alice", password="s3cret") < PROMPT


@pytest.mark.kafka
def test_scram_over_tls_lets_us_in(scram_over_tls: KafkaServer, certificates: Certificates) -> None:
    login = {"user": "alice", "password": "s3cret", "sasl_mechanism": "SCRAM-SHA-512"}
    succeeds(brokers=scram_over_tls.bootstrap, tls=TlsConfig(ca=str(certificates.ca)), **login)
    succeeds(brokers=scram_over_tls.bootstrap, tls=TlsConfig(verify=False), **login)


@pytest.mark.kafka
def test_a_client_certificate_lets_us_in(mutual_tls: KafkaServer, certificates: Certificates, tmp_path: Any) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(certificates.client_cert.read_bytes() + certificates.client_key.read_bytes())
    ca = str(certificates.ca)
    for tls in (
        TlsConfig(ca=ca, certificate=str(certificates.client_cert), key=str(certificates.client_key)),
        TlsConfig(ca=ca, certificate=str(both)),
    ):
        succeeds(brokers=mutual_tls.bootstrap, tls=tls)


@pytest.mark.kafka
def test_one_broker_that_lives_is_enough(plain: KafkaServer, dead_port: str, silent_server: str) -> None:
    producer, _ = connect(brokers=[dead_port, silent_server, plain.bootstrap], timeout=10.0)
    drop([producer], "test")


@pytest.mark.kafka
def test_looking_creates_no_topic(plain: KafkaServer) -> None:
    before = plain.view().partitions
    succeeds(brokers=plain.bootstrap)
    assert plain.view().partitions == before


def test_the_mock_is_good_enough_too(mock_kafka: Callable[..., MockKafka]) -> None:
    assert succeeds(brokers=mock_kafka(3).bootstrap) < PROMPT


def test_what_goes_wrong_later_is_logged(
    mock_kafka: Callable[..., MockKafka], caplog: pytest.LogCaptureFixture
) -> None:
    mock = mock_kafka()
    producer, errors = connect(brokers=mock.bootstrap)
    try:
        assert caplog.records == []
        mock.refuse()

        def said() -> bool:
            producer.poll(0.05)
            return errors.last is not None

        wait_until(said, 5.0)
        assert [record.levelname for record in caplog.records][:1] == ["WARNING"]
        assert "test.admin: " in caplog.text
    finally:
        drop([producer], "test")


# -- refusals: as soon as they are known ---------------------------------------------------------


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("login", "words"),
    [
        ({"user": "alice", "password": "wrong"}, "Invalid username or password"),
        ({"user": "nobody", "password": "s3cret"}, "Invalid username or password"),
        ({"user": "alice", "password": "s3cret", "sasl_mechanism": "SCRAM-SHA-256"}, "supported mechanisms: PLAIN"),
    ],
    ids=["password", "user", "mechanism"],
)
def test_a_wrong_login(with_password: KafkaServer, login: dict[str, str], words: str) -> None:
    error = refused(brokers=with_password.bootstrap, **login)
    assert words in str(error)
    assert "s3cret" not in str(error)


@pytest.mark.kafka
@pytest.mark.parametrize("login", [("alice", "wrong"), ("nobody", "s3cret")], ids=["password", "user"])
def test_a_wrong_scram_login(scram_over_tls: KafkaServer, certificates: Certificates, login: tuple[str, str]) -> None:
    user, password = login
    tls = TlsConfig(ca=str(certificates.ca))
    where = {"brokers": scram_over_tls.bootstrap, "tls": tls, "sasl_mechanism": "SCRAM-SHA-512"}
    error = refused(user=user, password=password, **where)
    assert "SCRAM-SHA-512" in str(error)


@pytest.mark.kafka
def test_a_login_where_none_is_asked_for(plain: KafkaServer) -> None:
    error = refused(brokers=plain.bootstrap, user="alice", password="s3cret")
    assert "SASL PLAIN mechanism handshake failed" in str(error)


@pytest.mark.kafka
def test_no_login_where_one_is_asked_for(with_password: KafkaServer) -> None:
    error = fails(brokers=with_password.bootstrap)
    assert isinstance(error, AuthenticationError)
    assert "asks for a login: set user and password" in str(error)


@pytest.mark.kafka
def test_an_authority_that_did_not_sign_for_the_broker(mutual_tls: KafkaServer, certificates: Certificates) -> None:
    for tls in (TlsConfig(ca=str(certificates.other_ca)), TlsConfig()):
        error = refused(brokers=mutual_tls.bootstrap, tls=tls)
        assert "certificate verify failed" in str(error)


@pytest.mark.kafka
def test_a_broker_with_the_name_of_another(scram_over_tls: KafkaServer, certificates: Certificates) -> None:
    with TcpProxy(*scram_over_tls.address, host="127.0.0.2") as proxy:  # its certificate is for 127.0.0.1
        error = refused(
            brokers="{}:{}".format(*proxy.address),
            tls=TlsConfig(ca=str(certificates.ca)),
            user="alice",
            password="s3cret",
        )
    assert "certificate verify failed" in str(error)


@pytest.mark.kafka
def test_a_missing_client_certificate(mutual_tls: KafkaServer, certificates: Certificates) -> None:
    error = refused(brokers=mutual_tls.bootstrap, tls=TlsConfig(ca=str(certificates.ca)))
    assert "refuses to go on without a client certificate" in str(error)


@pytest.mark.kafka
def test_a_client_certificate_of_a_stranger(mutual_tls: KafkaServer, certificates: Certificates) -> None:
    tls = TlsConfig(
        ca=str(certificates.ca),
        certificate=str(certificates.other_client_cert),
        key=str(certificates.other_client_key),
    )
    error = refused(brokers=mutual_tls.bootstrap, tls=tls)
    assert "refuses our client certificate" in str(error)


@pytest.mark.kafka
def test_a_broker_that_refuses_does_not_outweigh_one_that_answers(
    plain: KafkaServer, with_password: KafkaServer
) -> None:
    """The one that wants no login refuses ours at once; the other is reached on a slow line."""
    with TcpProxy(*with_password.address) as proxy:
        proxy.delay(0.1)
        login = {"user": "alice", "password": "s3cret"}
        producer, _ = connect(brokers=[plain.bootstrap, f"127.0.0.1:{proxy.port}"], timeout=10.0, **login)
        assert producer.list_topics(timeout=5.0).brokers
        drop([producer], "test")


@pytest.mark.kafka
def test_when_all_refuse_the_others_are_waited_for_shortly(plain: KafkaServer, dead_port: str) -> None:
    started = time.monotonic()
    with pytest.raises(AuthenticationError):
        connect(brokers=[plain.bootstrap, dead_port], timeout=10.0, user="alice", password="s3cret")
    assert 1.0 < time.monotonic() - started < 3.5


# -- everything else: at the deadline, with the cause --------------------------------------------


def test_a_dead_port(dead_port: str) -> None:
    error = fails(brokers=dead_port)
    assert type(error) is ConnectFailedError
    assert "refused" in str(error)
    assert dead_port in str(error)
    assert not error.server_spoke


def test_a_name_that_nobody_knows() -> None:
    error = fails(brokers="no-such-host.invalid")
    assert "resolve 'no-such-host.invalid:9092'" in str(error)
    assert not error.server_spoke


def test_a_web_server(web_server: str) -> None:
    error = fails(brokers=web_server)
    assert "does not speak Kafka: it says" in str(error)
    assert web_server in str(error)
    assert not error.server_spoke
    assert "wrong version number" in str(fails(brokers=web_server, tls=TlsConfig()))


@pytest.mark.nats
def test_a_server_that_speaks_first_is_named_and_not_taken_for_a_large_answer(nats_server: NatsServer) -> None:
    host, port = nats_server.address
    error = fails(brokers=f"{host}:{port}")
    assert "does not speak Kafka: it says 'INFO" in str(error)
    assert "receive.message.max.bytes" not in str(error)


def test_a_server_that_takes_connections_and_is_silent(silent_server: str) -> None:
    for tls in (None, TlsConfig()):
        error = fails(brokers=silent_server, tls=tls)
        assert "takes connections, and does not answer" in str(error)
        assert not error.server_spoke


@pytest.mark.kafka
def test_no_tls_where_it_is_asked_for(mutual_tls: KafkaServer) -> None:
    error = fails(brokers=mutual_tls.bootstrap)
    assert "behind TLS only: set tls" in str(error)
    assert not error.server_spoke, "waiting for it to speak as configured is what is left"


@pytest.mark.kafka
def test_tls_where_there_is_none(plain: KafkaServer) -> None:
    error = fails(brokers=plain.bootstrap, tls=TlsConfig())
    assert "without TLS only, and tls is set" in str(error)
    assert not error.server_spoke


def test_a_black_hole(mock_kafka: Callable[..., MockKafka]) -> None:
    mock = mock_kafka(proxied=True)
    mock.proxies[0].black_hole()
    error = fails(brokers=mock.bootstrap)
    assert "does not answer" in str(error)
    assert not error.server_spoke
    mock.proxies[0].accept()
    assert succeeds(brokers=mock.bootstrap) < PROMPT


def test_a_broker_that_is_there_but_cannot_say_what_it_has(mock_kafka: Callable[..., MockKafka]) -> None:
    mock = mock_kafka()
    mock.push_answers(1, "Metadata", *[(0, 30.0)] * 50)
    error = fails(brokers=mock.bootstrap)
    assert type(error) is ConnectFailedError
    assert error.server_spoke


def test_a_broker_that_comes_up_meanwhile(mock_kafka: Callable[..., MockKafka]) -> None:
    mock = mock_kafka()
    mock.refuse()
    timer = threading.Timer(0.7, mock.accept)
    timer.start()
    try:
        assert 0.7 < succeeds(brokers=mock.bootstrap) < 2.0
    finally:
        timer.join(5.0)


def test_a_host_that_is_not_there(full_server: str) -> None:
    assert "no connection in time" in str(fails(brokers=full_server))


def test_a_short_timeout_is_kept(silent_server: str) -> None:
    started = time.monotonic()
    with pytest.raises(ConnectFailedError):
        connect(brokers=silent_server, timeout=0.3)
    assert time.monotonic() - started < 0.6


def test_an_option_that_librdkafka_does_not_know(dead_port: str) -> None:
    with pytest.raises(ConfigError, match=r"linger\.milliseconds"):
        check_options(ClientOptions(KafkaConfig(brokers=dead_port, producer={"linger.milliseconds": 5}), "test"))
    with pytest.raises(ConfigError, match=r"socket\.milliseconds"):
        connect(brokers=dead_port, admin={"socket.milliseconds": 5})


# -- stopping ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["silent_server", "dead_port", "no-such-host.invalid"])
@pytest.mark.parametrize("after", [0.0, 0.1, 0.6])
def test_a_stop_ends_it_at_once(kind: str, after: float, request: pytest.FixtureRequest) -> None:
    brokers = kind if "." in kind else request.getfixturevalue(kind)
    stop = StopToken()
    stopped_at = []

    def ask_to_stop() -> None:
        stopped_at.append(time.monotonic())
        stop.set()

    timer = threading.Timer(after, ask_to_stop)
    timer.start()
    try:
        with pytest.raises(Stopped):
            connect(stop, brokers=brokers, timeout=10.0)
        assert time.monotonic() - stopped_at[0] < 2.0
    finally:
        timer.join(5.0)


def test_a_stop_during_the_diagnosis(silent_server: str) -> None:
    stop = StopToken()
    timer = threading.Timer(0.85, stop.set)  # the last quarter of the time is for it
    timer.start()
    try:
        with pytest.raises(Stopped):
            connect(stop, brokers=silent_server, timeout=TIMEOUT)
    finally:
        timer.join(5.0)


def test_a_stop_that_was_there_before(dead_port: str) -> None:
    stop = StopToken()
    stop.set()
    with pytest.raises(Stopped):
        connect(stop, brokers=dead_port)


# -- nothing stays behind ------------------------------------------------------------------------


def test_a_discarded_producer_with_messages_in_a_black_hole_ends_without_waiting_for_them(
    mock_kafka: Callable[..., MockKafka],
) -> None:
    mock = mock_kafka(proxied=True)
    mock.create_topic("orders")
    options = ClientOptions(KafkaConfig(brokers=mock.bootstrap), "test")
    producer = new_client(Producer, options.producer, ClientErrors("test"))
    producer.list_topics("orders", timeout=5.0)
    mock.proxies[0].black_hole()
    for _ in range(100):
        producer.produce("orders", b"x")
    started = time.monotonic()
    discard(producer, "test")
    assert time.monotonic() - started < 0.1, "it is somebody else who waits"
    del producer
    wait_until(lambda: not threads_called("eventbus.kafka-discard"), 3.0)
    assert time.monotonic() - started < 0.7, "it was purged"


def test_failed_attempts_leave_no_thread_behind(silent_server: str, dead_port: str) -> None:
    before = len(os_threads())
    for brokers in (silent_server, dead_port) * 3:
        with pytest.raises(ConnectFailedError):
            connect(brokers=brokers, timeout=0.2)
    wait_until(lambda: len(os_threads()) <= before, 5.0, message=lambda: f"{before} -> {os_threads()}")


def threads_called(name: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(name)]


def os_threads() -> list[str]:
    return os.listdir("/proc/self/task")


def test_attempts_are_silent_in_the_log_but_for_what_they_raise(
    dead_port: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fails(brokers=dead_port)
    assert caplog.records == []


# -- does anybody speak? -------------------------------------------------------------------------


def asked(brokers: list[str], tls: Any = None, timeout: float = 2.0) -> tuple[bool, float]:
    started = time.monotonic()
    answer = speaks(brokers, tls, timeout, StopToken())
    return answer, time.monotonic() - started


def test_a_broker_speaks(mock_kafka: Callable[..., MockKafka]) -> None:
    mock = mock_kafka()
    answer, took = asked([mock.bootstrap])
    assert answer
    assert took < 0.5
    mock.refuse()
    assert asked([mock.bootstrap])[0] is False


@pytest.mark.kafka
def test_brokers_of_every_kind_speak_before_any_login(
    plain: KafkaServer, with_password: KafkaServer, scram_over_tls: KafkaServer, mutual_tls: KafkaServer
) -> None:
    for server, tls in ((plain, False), (with_password, False), (scram_over_tls, True), (mutual_tls, True)):
        answer, took = asked([server.bootstrap], tls)
        assert answer, server
        assert took < 1.0
        assert asked([server.bootstrap], not tls)[0] is False, "it was asked in the wrong way"
        assert asked([f"localhost:{server.port}"], tls)[0], "by its name too"


@pytest.mark.kafka
def test_a_frozen_broker_accepts_and_does_not_speak(kafka_server: KafkaServer) -> None:
    assert asked([kafka_server.bootstrap])[0]
    kafka_server.freeze()
    try:
        answer, took = asked([kafka_server.bootstrap], timeout=0.5)
        assert not answer
        assert 0.4 < took < 0.8
    finally:
        kafka_server.thaw()
    wait_until(lambda: asked([kafka_server.bootstrap])[0], 10.0)


def test_who_does_not_speak_kafka(web_server: str, silent_server: str, full_server: str, dead_port: str) -> None:
    for brokers, most in (
        ([web_server], 0.4),
        ([dead_port], 0.4),
        (["no-such-host.invalid:9092"], 3.0),
        (["256.256.256.256:1"], 3.0),
        ([f"{'x' * 300}:1"], 1.0),
        ([full_server], 0.8),
        ([silent_server], 0.8),
        ([silent_server, web_server, dead_port], 0.8),
        ([], 0.1),
    ):
        for tls in (None, True, TlsConfig(certificate="/no/such/file")):
            answer, took = asked(brokers, tls, timeout=0.6)
            assert answer is False, brokers
            assert took < most, brokers


def test_one_that_speaks_is_found_among_many_that_do_not(
    mock_kafka: Callable[..., MockKafka], silent_server: str, dead_port: str, web_server: str
) -> None:
    good = mock_kafka().bootstrap
    answer, took = asked([silent_server, dead_port, "no-such-host.invalid:1", web_server, good], timeout=5.0)
    assert answer
    assert took < 1.5, "all are asked at once"


ANSWERS = {
    "closes at once": b"",
    "answers less": b"\0\0\0",
    "another number": b"\0\0\0\x10\0\0\0\x12" + bytes(64),
    "no length": b"\0\0\0\0\r\n\r\n" + bytes(64),
    "too long": b"\x7f\xff\xff\xff\r\n\r\n" + bytes(64),
    "an alert of TLS": b"\x15\x03\x03\x00\x02\x02\x28" + bytes(64),
    "garbage": bytes(range(256)),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_what_is_no_answer(answer: bytes) -> None:
    with ExitStack() as stack:
        where = answering(stack, answer)
        assert speaks([where], None, 1.0, StopToken()) is False
        assert [finding.speaks for finding in examine([where], None, 1.0, StopToken())] == [False]
        assert speaks([where], True, 1.0, StopToken()) is False


def test_what_is_an_answer() -> None:
    with ExitStack() as stack:
        where = answering(stack, b"\0\0\0\x0a\r\n\r\n" + bytes(6))
        assert speaks([where], None, 1.0, StopToken()) is True


def answering(stack: ExitStack, answer: bytes) -> str:
    """A server that says this to everybody, and closes."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def serve() -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            with link:
                link.recv(1024)
                link.sendall(answer)

    thread = threading.Thread(target=serve, name="eventbus.test-answering", daemon=True)
    thread.start()
    stack.callback(thread.join, 5.0)
    stack.callback(listener.shutdown, socket.SHUT_RDWR)
    return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("tls", [None, True])
def test_a_stop_ends_the_asking_at_once(silent_server: str, full_server: str, tls: Any) -> None:
    stop = StopToken()
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    started = time.monotonic()
    assert speaks([silent_server, full_server], tls, 10.0, stop) is False
    assert 0.1 < time.monotonic() - started < 1.0
    timer.join(5.0)
