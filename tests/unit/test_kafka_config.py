"""Kafka without a broker: what may be set, what the clients get of it, and what their errors mean."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import threading
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from eventbus import ConfigError, EventBusConfig, KafkaConfig, TlsConfig
from eventbus.backends.kafka.clients.connecting import new_client
from eventbus.backends.kafka.clients.errors import ClientErrors, is_fatal, is_refusal, text_of
from eventbus.backends.kafka.clients.options import ClientOptions
from eventbus.backends.kafka.topics import Topics

KINDS = ("common", "producer", "consumer", "admin")

# -- brokers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a", ("a:9092",)),
        ("a:1", ("a:1",)),
        ("a, b:1 ,", ("a:9092", "b:1")),
        (["a", "b:65535"], ("a:9092", "b:65535")),
        ("kafka://a", ("a:9092",)),
        ("KAFKA://a:1/", ("a:1",)),
        ("kafka://a:1,kafka://b", ("a:1", "b:9092")),
        ("[::1]:9093", ("[::1]:9093",)),
        ("[::1]", ("[::1]:9092",)),
        ("::1", ("[::1]:9092",)),
        ("127.0.0.1", ("127.0.0.1:9092",)),
        ("Broker:09092", ("broker:9092",)),
        ("[FE80::1%eth0]:1", ("[fe80::1%eth0]:1",)),
        ("broker-1.kafka.svc.cluster.local:9092", ("broker-1.kafka.svc.cluster.local:9092",)),
    ],
)
def test_brokers_are_kept_as_host_and_port(given: Any, kept: tuple[str, ...]) -> None:
    assert KafkaConfig(brokers=given).brokers == kept
    assert KafkaConfig(brokers=given) == KafkaConfig(brokers=kept)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("http://a", "scheme"),
        ("kafka+ssl://a", "scheme"),
        ("tls://a:1", "scheme"),
        ("a:0", "the port"),
        ("a:65536", "the port"),
        ("a:-1", "the port"),
        ("a:x", "the port"),
        ("a:" + "9" * 5000, "the port"),
        (":9092", "host:port"),
        ("a b", "host:port"),
        ("a/path", "host:port"),
        ("a?x=1", "host:port"),
        ("kafka://a/path", "host:port"),
        ("[::1", "brokers"),
        ("[nonsense]:1", "brokers"),
        ("[127.0.0.1]:1", "brokers"),
        ("[::1]x:1", "host:port"),
        ("[::1]9092", "host:port"),
        ("a:", "host:port"),
        ("a:1_0", "the port"),
        ("a:\u0661", "the port"),
        ("a\u00a0b", "host:port"),
        ("a#b", "host:port"),
        ("a\\b", "host:port"),
        ("a\nb:1", "brokers"),
        ("[]:1", "brokers"),
    ],
)
def test_a_malformed_broker_is_refused(bad: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        KafkaConfig(brokers=[bad])
    assert str(caught.value).startswith("brokers")


def test_credentials_do_not_stand_with_a_broker() -> None:
    with pytest.raises(ConfigError, match="settings of their own") as caught:
        KafkaConfig(brokers="u:hunter2@a")
    assert "hunter2" not in str(caught.value)


# -- settings that contradict each other ---------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"user": "u"}, "user and password go together"),
        ({"password": "p"}, "user and password go together"),
        ({"tls": TlsConfig(hostname="h")}, r"tls\.hostname has no meaning"),
        ({"tls": TlsConfig(handshake_first=True)}, r"tls\.handshake_first has no meaning"),
        ({"common": {"sasl.mechanism": "PLAIN"}}, "set `sasl_mechanism`"),
        ({"common": {"sasl.mechanisms": "scram-sha-512"}}, "set `sasl_mechanism`"),
        ({"common": {"sasl.mechanisms": "OAUTHBEARER"}, "user": "u", "password": "p"}, "without a user"),
        ({"producer": {"sasl.mechanisms": "OAUTHBEARER"}}, "in `common`"),
        ({"producer": {"max.in.flight": 6}}, "1 to 5"),
        ({"common": {"max.in.flight.requests.per.connection": "100"}}, "1 to 5"),
        ({"producer": {"max.in.flight": True}}, "1 to 5"),
        ({"consumer": {"session.timeout.ms": 6000}, "group_protocol": "consumer"}, "the broker sets it"),
        ({"consumer": {"heartbeat.interval.ms": 1}, "group_protocol": "consumer"}, "the broker sets it"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        KafkaConfig(**settings)


REFUSED = {
    "bootstrap.servers": "`brokers`",
    "metadata.broker.list": "`brokers`",
    "client.id": "`client_name`",
    "security.protocol": "`tls`, `user` and `token`",
    "sasl.username": "`user` and `password`",
    "sasl.password": "`user` and `password`",
    "ssl.ca.location": r"`tls\.ca`",
    "ssl.ca.pem": r"`tls\.ca`",
    "ssl.certificate.location": r"`tls\.certificate`",
    "ssl.key.location": r"`tls\.key`",
    "ssl.key.pem": r"`tls\.key`",
    "enable.ssl.certificate.verification": r"`tls\.verify`",
    "group.id": "`group`",
    "group.protocol": "`group_protocol`",
    "group.instance.id": "group_instance_id",
    "auto.offset.reset": "`start`",
    "allow.auto.create.topics": "`create_topics`",
    "partition.assignment.strategy": "cooperative-sticky",
    "enable.auto.commit": "when the handler has succeeded",
    "auto.commit.interval.ms": "when the handler has succeeded",
    "auto.commit.enable": "when the handler has succeeded",
    "enable.auto.offset.store": "when the handler has succeeded",
    "enable.partition.eof": "not a message",
    "enable.idempotence": "once and in order",
    "acks": "once and in order",
    "request.required.acks": "once and in order",
    "queuing.strategy": "once and in order",
    "message.timeout.ms": "gives each message its time",
    "delivery.timeout.ms": "gives each message its time",
    "retries": "gives each message its time",
    "queue.buffering.max.messages": "`max_in_flight`",
    "queue.buffering.max.kbytes": "`max_in_flight_bytes`",
    "delivery.report.only.error": "needs its report",
    "transactional.id": "not transactional",
    "on_delivery": "library's own",
    "on_commit": "library's own",
    "error_cb": "library's own",
    "stats_cb": "library's own",
    "throttle_cb": "library's own",
    "oauth_cb": "library's own",
    "logger": "library's own",
    "statistics.interval.ms": "library's own",
    "default.topic.config": "themselves",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("key", "reason"), REFUSED.items(), ids=REFUSED)
def test_an_option_that_a_guarantee_rests_on_is_refused_with_the_reason(kind: str, key: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=rf"{kind}\['{key}'\] may not be set: .*{reason}"):
        KafkaConfig(**{kind: {key: 1}})


@pytest.mark.parametrize("value", [print, None, [1], {"a": 1}, b"x", "a\0b"], ids=repr)
def test_an_option_is_a_text_a_number_or_a_flag(value: object) -> None:
    with pytest.raises(ConfigError, match=r"consumer\['client\.rack'\]"):
        KafkaConfig(consumer={"client.rack": value})
    for good in ("x", 5, 1.5, True):
        assert KafkaConfig(consumer={"client.rack": good}).consumer == {"client.rack": good}


def test_options_are_a_copy_and_cross_processes() -> None:
    given = {"linger.ms": 5}
    config = KafkaConfig(producer=given)
    given["linger.ms"] = 7
    assert config.producer == {"linger.ms": 5}
    assert pickle.loads(pickle.dumps(config)) == config


@pytest.mark.parametrize(
    "key",
    [
        "ssl.key.password",
        "ssl.keystore.password",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.oauthbearer.assertion.private.key.passphrase",
        "sasl.oauthbearer.assertion.private.key.pem",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.extensions",
    ],
)
def test_credentials_are_not_shown(key: str) -> None:
    for kind in KINDS:
        config = KafkaConfig(user="u", password="hunter2", **{kind: {key: "hunter2", "client.rack": "r1"}})
        shown = repr(EventBusConfig(backend=config)) + repr(ClientOptions(config, "x"))
        assert "hunter2" not in shown
        assert "'client.rack': 'r1'" in shown, "only what is secret is hidden"
        assert getattr(config, kind)[key] == "hunter2"


# -- what the clients get ------------------------------------------------------------------------


def consumer_options(config: KafkaConfig, protocol: str = "classic", start: str = "earliest") -> dict[str, Any]:
    return ClientOptions(config, "bus").consumer("orders", protocol=protocol, start=start)


def test_what_each_client_gets_by_default() -> None:
    common = {
        "bootstrap.servers": "127.0.0.1:9092",
        "client.id": "bus",
        "security.protocol": "plaintext",
        "socket.timeout.ms": 10_000,
        "socket.connection.setup.timeout.ms": 5_000,
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 100,
        "reconnect.backoff.max.ms": 1_000,
        "metadata.max.age.ms": 180_000,
        "allow.auto.create.topics": False,
        "log_level": 6,
    }
    options = ClientOptions(KafkaConfig(), "bus")
    assert options.admin == common | {"log_level": 0}
    assert options.producer == common | {
        "enable.idempotence": True,
        "acks": "all",
        "linger.ms": 0,
        "compression.type": "none",
        "message.timeout.ms": 0,
        "queue.buffering.max.messages": 2_000_000,
        "queue.buffering.max.kbytes": 2_097_151,
        "partitioner": "murmur2_random",
        "statistics.interval.ms": 0,
        "delivery.report.only.error": False,
        "topic.metadata.propagation.max.ms": 1000,
    }
    new = common | {
        "group.id": "orders",
        "group.protocol": "consumer",
        "auto.offset.reset": "latest",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": False,
        "fetch.queue.backoff.ms": 10,
        "fetch.wait.max.ms": 100,
        "queued.min.messages": 10_000,
        "queued.max.messages.kbytes": 1_024,
        "fetch.max.bytes": 1_048_576,
        "max.poll.interval.ms": 300_000,
    }
    assert consumer_options(KafkaConfig(), "consumer", "latest") == new
    assert consumer_options(KafkaConfig(), "classic") == new | {
        "group.protocol": "classic",
        "auto.offset.reset": "earliest",
        "session.timeout.ms": 45_000,
        "heartbeat.interval.ms": 3_000,
        "partition.assignment.strategy": "cooperative-sticky",
        "topic.metadata.refresh.interval.ms": 4_000,
    }


def test_the_same_configuration_gives_the_same_options_each_time_and_nobody_can_change_them() -> None:
    config = KafkaConfig(user="u", password="p", producer={"linger.ms": 5}, common={"client.rack": "r"})
    first, second = ClientOptions(config, "bus"), ClientOptions(config, "bus")
    first.producer["linger.ms"] = 99
    first.consumer("g", protocol="classic", start="latest").clear()
    assert first == second
    assert first.producer == second.producer
    assert first.producer["linger.ms"] == 5
    assert list(first.producer) == list(second.producer), "librdkafka reads them in order"
    assert config.producer == {"linger.ms": 5}


def test_no_such_protocol_or_start() -> None:
    for wrong in ({"protocol": "auto", "start": "latest"}, {"protocol": "classic", "start": "smallest"}):
        with pytest.raises(ValueError, match="no such"):
            ClientOptions(KafkaConfig(), "x").consumer("g", **wrong)


def test_the_option_for_one_kind_of_client_wins_over_the_common_one_and_both_over_ours() -> None:
    config = KafkaConfig(common={"socket.timeout.ms": 1, "client.rack": "c"}, admin={"socket.timeout.ms": 2})
    options = ClientOptions(config, "x")
    assert (options.producer["socket.timeout.ms"], options.admin["socket.timeout.ms"]) == (1, 2)
    assert options.consumer("g", protocol="classic", start="latest")["client.rack"] == "c"


def test_a_second_name_replaces_the_option_that_it_means() -> None:
    options = ClientOptions(
        KafkaConfig(producer={"queue.buffering.max.ms": 7, "compression.codec": "lz4"}), "x"
    ).producer
    assert (options["linger.ms"], options["compression.type"]) == (7, "lz4")
    assert not {"queue.buffering.max.ms", "compression.codec"} & options.keys()
    with pytest.raises(ConfigError, match=r"linger\.ms"):
        _ = ClientOptions(KafkaConfig(producer={"queue.buffering.max.ms": 7, "linger.ms": 8}), "x").producer


def test_classic_options_are_left_out_where_the_group_protocol_has_none() -> None:
    config = KafkaConfig(consumer={"session.timeout.ms": 6000, "heartbeat.interval.ms": 500})
    assert consumer_options(config, "classic")["session.timeout.ms"] == 6000
    assert not {"session.timeout.ms", "heartbeat.interval.ms"} & consumer_options(config, "consumer").keys()


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, {"security.protocol": "plaintext"}),
        (
            {"user": "u", "password": "p"},
            {
                "security.protocol": "sasl_plaintext",
                "sasl.mechanisms": "PLAIN",
                "sasl.username": "u",
                "sasl.password": "p",
            },
        ),
        (
            {"user": "u", "password": "", "sasl_mechanism": "SCRAM-SHA-512", "tls": TlsConfig()},
            {
                "security.protocol": "sasl_ssl",
                "sasl.mechanisms": "SCRAM-SHA-512",
                "sasl.username": "u",
                "sasl.password": "",
                "enable.ssl.certificate.verification": True,
            },
        ),
        ({"tls": TlsConfig()}, {"security.protocol": "ssl", "enable.ssl.certificate.verification": True}),
        ({"tls": TlsConfig(verify=False)}, {"security.protocol": "ssl", "enable.ssl.certificate.verification": False}),
        (
            {"tls": TlsConfig(ca="a", certificate="c", key="k")},
            {
                "security.protocol": "ssl",
                "enable.ssl.certificate.verification": True,
                "ssl.ca.location": "a",
                "ssl.certificate.location": "c",
                "ssl.key.location": "k",
            },
        ),
        (
            {"tls": TlsConfig(certificate="both")},
            {
                "security.protocol": "ssl",
                "enable.ssl.certificate.verification": True,
                "ssl.certificate.location": "both",
                "ssl.key.location": "both",
            },
        ),
        (
            {"common": {"sasl.mechanism": "OAUTHBEARER", "sasl.oauthbearer.method": "oidc"}, "tls": TlsConfig()},
            {
                "security.protocol": "sasl_ssl",
                "sasl.mechanisms": "OAUTHBEARER",
                "sasl.oauthbearer.method": "oidc",
                "enable.ssl.certificate.verification": True,
            },
        ),
    ],
)
def test_how_the_clients_get_in(settings: dict[str, Any], found: dict[str, Any]) -> None:
    options = ClientOptions(KafkaConfig(**settings), "x")
    for one in (options.producer, options.admin, options.consumer("g", protocol="consumer", start="latest")):
        assert {key: one[key] for key in one if key.startswith(("sasl.", "ssl.", "security.", "enable.ssl"))} == found


def test_the_name_of_the_client() -> None:
    assert ClientOptions(KafkaConfig(), "bus").admin["client.id"] == "bus"
    assert ClientOptions(KafkaConfig(client_name="mine"), "bus").admin["client.id"] == "mine"


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_librdkafka_takes_all_of_it(protocol: str) -> None:
    config = KafkaConfig(brokers="127.0.0.1:1", user="u", password="p", tls=TlsConfig())
    options, errors = ClientOptions(config, "x"), ClientErrors("x")
    new_client(Producer, options.producer, errors).close()
    new_client(AdminClient, options.admin, errors)
    new_client(Consumer, options.consumer("g", protocol=protocol, start="latest"), errors).close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"producer": {"liner.ms": 5}}, "liner.ms"),
        ({"producer": {"linger.ms": -5}}, "queue.buffering.max.ms.*here 'linger.ms'"),
        ({"producer": {"linger.ms": "soon"}}, "linger.ms"),
        ({"producer": {"compression.type": "zip"}}, "compression"),
        ({"tls": TlsConfig(ca="/no/such/file")}, "ssl.ca.location"),
        ({"tls": TlsConfig(certificate="/no/such/file")}, "ssl.certificate.location"),
        ({"common": {"sasl.mechanisms": "NONSENSE"}}, "NONSENSE"),
        ({"client_name": "\udc80"}, "configuration"),
    ],
)
def test_an_option_that_librdkafka_refuses_is_named(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        new_client(
            Producer, ClientOptions(KafkaConfig(brokers="127.0.0.1:1", **settings), "x").producer, ClientErrors("x")
        )


def test_the_configuration_needs_no_client_library() -> None:
    program = (
        "import sys, eventbus\n"
        "from eventbus.backends.kafka.clients.options import ClientOptions\n"
        "config = eventbus.load_config('kafka://h?producer.linger.ms=5').backend\n"
        "print(ClientOptions(config, 'x').producer['linger.ms'])\n"
        "print('confluent_kafka' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["5", "False"]


# -- what errors mean ----------------------------------------------------------------------------

AUTHENTICATION, SSL, TRANSPORT = KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError._TRANSPORT


@pytest.mark.parametrize(
    ("code", "text", "refused"),
    [
        (AUTHENTICATION, "SASL authentication error: Authentication failed: Invalid username or password", True),
        (KafkaError.SASL_AUTHENTICATION_FAILED, "Broker: SASL Authentication failed", True),
        (AUTHENTICATION, "SASL PLAIN mechanism handshake failed: Broker: Unsupported SASL mechanism", True),
        (
            AUTHENTICATION,
            "SASL authentication error: SaslAuthenticateRequest failed: Local: Broker transport failure",
            False,
        ),
        (AUTHENTICATION, "SASL PLAIN mechanism handshake failed: Local: Timed out", False),
        (SSL, "SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker ...", True),
        (SSL, "SSL handshake failed: error:0A00010B:SSL routines::wrong version number", False),
        (TRANSPORT, "Receive failed: ssl/tls alert bad certificate: SSL alert number 42", True),
        (TRANSPORT, "Receive failed: tlsv13 alert certificate required: SSL alert number 116", True),
        (SSL, "SSL handshake failed: tlsv1 alert unknown ca", True),
        (TRANSPORT, "Connect to ipv4#127.0.0.1:1 failed: Connection refused", False),
        (TRANSPORT, "SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?", False),
        (KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down", False),
    ],
)
def test_what_is_a_refusal(code: int, text: str, refused: bool) -> None:
    error = KafkaError(code, text)
    assert is_refusal(error) is refused
    errors = ClientErrors("x")
    errors.note(error)
    assert errors.refused == (error if refused else None)


def test_which_errors_are_fatal() -> None:
    assert is_fatal(KafkaError(KafkaError._FATAL))
    assert is_fatal(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "x", fatal=True))
    assert not is_fatal(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "x"))


def test_texts_are_for_people_and_the_same_each_time() -> None:
    first = KafkaError(TRANSPORT, "h:1/1: Connect failed: refused (after 3ms in state CONNECT)")
    again = KafkaError(
        TRANSPORT, "h:1/1: Connect failed: refused (after 17ms in state CONNECT, 4 identical error(s) suppressed)"
    )
    assert (
        text_of(first)
        == text_of(again)
        == text_of(KafkaException(first))
        == "h:1/1: Connect failed: refused (TRANSPORT)"
    )
    assert text_of(KafkaError(KafkaError.TOPIC_EXCEPTION, "two\nlines ")) == "two lines (TOPIC_EXCEPTION)"
    assert text_of(RuntimeError("Producer has been closed")) == "Producer has been closed"
    assert text_of(RuntimeError()) == "RuntimeError"


# -- what a client says --------------------------------------------------------------------------


def refused_at(milliseconds: int) -> KafkaError:
    return KafkaError(TRANSPORT, f"h:1/1: Connect failed: refused (after {milliseconds}ms in state CONNECT)")


def test_each_text_is_logged_once_and_the_repeats_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    errors = ClientErrors("bus.producer")
    for time in range(5):
        errors.note(refused_at(time))
    errors.note(KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"))
    errors.note(KafkaError(KafkaError._RESOLVE, "no such host"))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "bus.producer: h:1/1: Connect failed: refused (TRANSPORT)"),
        ("DEBUG", "bus.producer: 1/1 brokers are down (ALL_BROKERS_DOWN)"),
        ("WARNING", "bus.producer: no such host (RESOLVE) (4 repeats not shown)"),
    ]
    assert errors.last == "no such host (RESOLVE)"
    errors.note(refused_at(9))
    assert errors.last == "h:1/1: Connect failed: refused (TRANSPORT)"
    caplog.clear()
    errors.forget()
    assert (errors.last, errors.refused) == (None, None)
    assert [record.getMessage() for record in caplog.records] == ["bus.producer: 1 repeated errors were not shown"]
    caplog.clear()
    errors.note(refused_at(0))
    assert [record.levelname for record in caplog.records] == ["WARNING"], "after a recovery it is news again"


def test_texts_that_never_repeat_do_not_fill_memory_or_the_log(caplog: pytest.LogCaptureFixture) -> None:
    errors = ClientErrors("x")
    for number in range(1000):
        errors.note(KafkaError(TRANSPORT, f"error number {number}"))
    assert len(caplog.records) == 64
    assert errors.last == "error number 999 (TRANSPORT)"


def test_while_it_connects_the_errors_are_the_caller_s(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    errors = ClientErrors("x")
    errors.quiet = True
    errors.note(refused_at(1))
    errors.note(refused_at(2))
    errors.forget()
    assert (caplog.records, errors.quiet) == ([], False)


def test_a_fatal_error_is_told_once_stays_and_never_raises(caplog: pytest.LogCaptureFixture) -> None:
    told: list[KafkaError] = []

    def on_fatal(error: KafkaError) -> None:
        told.append(error)
        raise RuntimeError("in the callback")

    errors = ClientErrors("x", on_fatal)
    fatal = KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "gap", fatal=True)
    errors.note(refused_at(1))
    assert (told, errors.fatal) == ([], None)
    errors.note(fatal)
    errors.note(KafkaError(KafkaError._FATAL, "again"))
    errors.forget()
    assert told == [fatal]
    assert errors.fatal == fatal
    assert "a callback failed" in caplog.text


def test_many_threads_may_note_at_once(caplog: pytest.LogCaptureFixture) -> None:
    told: list[KafkaError] = []
    errors = ClientErrors("x", told.append)
    start = threading.Barrier(4)

    def poll() -> None:
        start.wait(5.0)
        for _ in range(200):
            errors.note(KafkaError(KafkaError._FATAL, "gone"))

    threads = [threading.Thread(target=poll) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10.0)
    assert len(told) == 1
    assert len(caplog.records) == 1


def test_an_admin_client_that_was_not_answered_is_replaced_until_the_session_ends() -> None:
    made: list[object] = []

    def make() -> Any:
        made.append(object())
        return made[-1]

    topics = Topics(make, KafkaConfig())
    first = topics.admin
    topics.renew()
    assert topics.admin is made[1] is not first
    topics.close()
    topics.renew()
    assert topics.admin is None
    assert len(made) == 2


@pytest.mark.parametrize(
    "given", [{"user": " u", "password": "p"}, {"user": "u", "password": "\tp"}, {"group_instance_id": " "}]
)
def test_what_librdkafka_would_cut_is_refused(given: dict[str, str]) -> None:
    """It leaves out blanks in front of an option's text: a right password was "invalid", a static member was none."""
    with pytest.raises(ConfigError, match="begins with a blank"):
        KafkaConfig(**given)
