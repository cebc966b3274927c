"""Connecting: every way to fail ends in a typed error within the deadline, and leaves nothing behind."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from engine_support import Conversation, FakeBus, ScriptedServer

from eventbus.backends.nats import NatsBackend
from eventbus.config import NatsConfig
from eventbus.config_tls import TlsConfig
from eventbus.errors import AuthenticationError, ConfigError, ConnectFailedError
from eventbus.testing import NatsServer, wait_until
from eventbus.testing.ports import free_port, release_port
from eventbus.threads import Stopped, StopToken

pytestmark = pytest.mark.nats


def connect(bus: FakeBus, *servers: str, **config):
    config.setdefault("jetstream", False)
    return NatsBackend(NatsConfig(servers=servers, **config)).connect(bus.context())


def fails(bus: FakeBus, *servers: str, **config) -> ConnectFailedError:
    started = time.monotonic()
    with pytest.raises(ConnectFailedError) as caught:
        connect(bus, *servers, **config)
    assert time.monotonic() - started < bus.timeout + 0.5
    return caught.value


def test_refused_connection(bus):
    port = free_port()
    error = fails(bus, f"127.0.0.1:{port}")
    release_port(port)
    assert "refused" in str(error).lower()
    assert not error.server_spoke


SILENT = {
    "says nothing": lambda link: link.hang(),
    "closes at once": lambda link: link.end(),
    "is a web server": lambda link: link.send(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n"),
    "sends garbage": lambda link: link.send(bytes(range(256)) * 100),
    "sends half a line and hangs": lambda link: (link.send(b'INFO {"server_id":'), link.hang()),
    "sends half a line and closes": lambda link: (link.send(b'INFO {"server_id":'), link.end()),
    "INFO is no JSON": lambda link: link.send(b"INFO what?\r\n"),
    "INFO is no object": lambda link: link.send(b"INFO [1]\r\n"),
    "INFO is a bomb": lambda link: link.send(b"INFO " + b"[" * 100_000 + b"\r\n"),
    "INFO without end": lambda link: [link.send(b"INFO " + b"x" * 65536) for _ in range(64)],
    "refuses in its own words": lambda link: link.send(b"-ERR nonsense\r\n"),
}


@pytest.mark.parametrize("script", SILENT.values(), ids=SILENT)
def test_what_is_no_nats_server(script):
    bus = FakeBus(timeout=0.6)
    with ScriptedServer(script) as server:
        error = fails(bus, server.url)
    assert not error.server_spoke
    assert server.url in str(error)


def after_info(then):
    def script(link: Conversation) -> None:
        link.info()
        link.expect(b"PING\r\n")
        then(link)

    return script


SPOKE = {
    "no PONG": lambda link: link.hang(),
    "closes after CONNECT": lambda link: link.end(),
    "half a PONG": lambda link: (link.send(b"PO"), link.hang()),
    "unknown answer": lambda link: link.send(b"WHAT\r\n"),
    "too many connections": lambda link: link.send(b"-ERR 'maximum connections exceeded'\r\n"),
    "empty error": lambda link: link.send(b"-ERR ''\r\n"),
}


@pytest.mark.parametrize("then", SPOKE.values(), ids=SPOKE)
def test_a_server_that_speaks_and_fails(then):
    bus = FakeBus(timeout=0.6)
    with ScriptedServer(after_info(then)) as server:
        error = fails(bus, server.url)
    assert error.server_spoke
    assert not isinstance(error, AuthenticationError)


def test_an_old_server_without_headers(bus):
    with ScriptedServer(lambda link: link.greet(headers=False)) as server:
        assert "headers" in str(fails(bus, server.url))


@pytest.mark.parametrize(
    "words", ["Authorization Violation", "User Authentication Expired", "User Authentication Revoked"]
)
def test_refused_credentials_are_an_authentication_error(bus, words):
    script = after_info(lambda link: link.send(f"-ERR '{words}'\r\n".encode()))
    with ScriptedServer(script) as server, pytest.raises(AuthenticationError) as caught:
        connect(bus, server.url)
    assert caught.value.server_spoke
    assert words in str(caught.value)


def test_user_and_password(bus, serve):
    server = serve(jetstream=False, user="ann", password="s:e/c@r%t")
    place = f"127.0.0.1:{server.port}"
    with pytest.raises(AuthenticationError):
        connect(bus, place)
    with pytest.raises(AuthenticationError):
        connect(bus, place, user="ann", password="wrong")
    connect(bus, place, user="ann", password="s:e/c@r%t").close(5)
    connect(bus, server.url).close(5)  # credentials in the server's URL, percent-encoded


def test_the_right_token_lets_us_in(bus, serve):
    server = serve(jetstream=False, token="a/b c")
    place = f"127.0.0.1:{server.port}"
    with pytest.raises(AuthenticationError):
        connect(bus, place, token="wrong")
    connect(bus, place, token="a/b c").close(5)
    connect(bus, server.url).close(5)


def test_an_ipv6_address_is_connected_to(bus, serve):
    server = serve(jetstream=False, host="::1")
    for place in (f"[::1]:{server.port}", f"nats://[::1]:{server.port}"):
        connect(bus, place).close(5)


def test_a_name_with_several_addresses_is_tried_at_each(bus, serve):
    server = serve(jetstream=False)  # on 127.0.0.1 alone: localhost may be ::1 first
    connect(bus, f"localhost:{server.port}").close(5)


def test_a_name_that_does_not_exist(bus):
    assert "nowhere.invalid" in str(fails(bus, "nowhere.invalid:4222"))


def test_the_next_server_is_tried(bus, serve):
    server = serve(jetstream=False)
    port = free_port()
    with ScriptedServer(lambda link: link.hang()) as silent:
        for _ in range(4):  # they are tried from a random one on
            bus.timeout = 0.9
            connect(bus, silent.url, f"127.0.0.1:{port}", f"127.0.0.1:{server.port}").close(5)
    release_port(port)


def test_all_fail_and_all_are_named(bus):
    ports = [free_port(), free_port()]
    error = fails(bus, *(f"127.0.0.1:{port}" for port in ports))
    assert all(str(port) in str(error) for port in ports)
    for port in ports:
        release_port(port)


def test_announced_servers_are_learned(bus, serve):
    server = serve(jetstream=False)
    first_only = threading.Event()

    def script(link: Conversation) -> None:
        if first_only.is_set():
            return
        first_only.set()
        link.greet(connect_urls=[f"127.0.0.1:{server.port}", "not a server:x", 7])
        link.hang()

    with ScriptedServer(script) as announcer:
        backend = NatsBackend(NatsConfig(servers=announcer.url, jetstream=False))
        backend.connect(bus.context()).close(5)
    session = backend.connect(bus.context())  # the announcer is gone
    assert str(server.port) in repr(session)
    session.close(5)


def test_a_stop_interrupts_at_once():
    bus = FakeBus(timeout=30)
    outcome = []

    def run() -> None:
        try:
            connect(bus, server.url)
        except Stopped as error:
            outcome.append(error)

    with ScriptedServer(lambda link: link.hang()) as server:
        thread = threading.Thread(target=run)
        thread.start()
        wait_until(lambda: server.accepted)
        started = time.monotonic()
        bus.stop.set()
        thread.join(5)
    assert time.monotonic() - started < 0.5
    assert outcome


def test_a_stop_interrupts_a_black_holed_connect():
    bus = FakeBus(timeout=30)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        threading.Timer(0.2, bus.stop.set).start()
        started = time.monotonic()
        with pytest.raises(Stopped):
            connect(bus, f"127.0.0.1:{full.getsockname()[1]}")
        assert time.monotonic() - started < 1.0
        for filler in fillers:
            filler.close()


def test_a_stopped_token_connects_to_nothing(bus, serve):
    server = serve(jetstream=False)
    bus.stop.set()
    with pytest.raises(Stopped):
        connect(bus, f"127.0.0.1:{server.port}")


def test_malformed_servers_are_config_errors():
    for text in ("http://a", "nats://a/path", "a:b", "", "a:99999999", "nats://user:pw@"):
        with pytest.raises(ConfigError):
            NatsBackend(NatsConfig(servers=(text,)))


# -- JetStream ------------------------------------------------------------------------------------


def test_jetstream_disabled_is_said_at_once(bus, serve):
    server = serve(jetstream=False)
    started = time.monotonic()
    error = fails(bus, f"127.0.0.1:{server.port}", jetstream=True)
    assert time.monotonic() - started < 2.0
    assert error.server_spoke
    assert "not enabled" in str(error)


def test_jetstream_that_does_not_answer():
    bus = FakeBus(timeout=0.6)

    def script(link: Conversation) -> None:
        link.greet(jetstream=True)
        link.hang()

    with ScriptedServer(script) as server:
        error = fails(bus, server.url, jetstream=True)
    assert not error.server_spoke, "it may answer any moment"
    assert "JetStream does not answer" in str(error)
    assert not bus.losses


def test_jetstream_that_takes_a_while_to_elect(bus):
    unserved = b"NATS/1.0 503\r\n\r\n"
    no_leader = b'{"error":{"code":503,"err_code":10008,"description":"no leader"}}'
    answers = iter([(unserved, b""), (unserved, b""), (b"", no_leader)])

    def script(link: Conversation) -> None:
        link.greet(jetstream=True, cluster="c")
        link.expect(b".r.* ")
        sid = link.expect(b"\r\n")
        while True:
            link.expect(b"PUB $JS.API.INFO ")
            reply = link.expect(b" 0\r\n")
            block, body = next(answers, (b"", b"{}"))
            if block:
                link.send(b"HMSG %b %b %d %d\r\n%b\r\n" % (reply, sid, len(block), len(block), block))
            else:
                link.send(b"MSG %b %b %d\r\n%b\r\n" % (reply, sid, len(body), body))

    with ScriptedServer(script) as server:
        session = connect(bus, server.url, jetstream=True)
        assert session.close(5) == ()


# -- TLS ------------------------------------------------------------------------------------------


def test_tls_is_verified_by_default(bus, serve, certificates):
    server = serve(jetstream=False, tls=certificates)
    place = f"127.0.0.1:{server.port}"
    assert "not trusted" in str(fails(bus, place))  # the server asks for TLS, nobody else did
    assert "not trusted" in str(fails(bus, place, tls=TlsConfig(ca=str(certificates.other_ca))))
    connect(bus, place, tls=TlsConfig(ca=str(certificates.ca))).close(5)
    connect(bus, f"tls://{place}", tls=TlsConfig(verify=False)).close(5)


def test_tls_checks_the_name(bus, serve, certificates):
    server = serve(jetstream=False, tls=certificates)
    ca = str(certificates.ca)
    wrong = TlsConfig(ca=ca, hostname="elsewhere.test")
    assert "elsewhere.test" in str(fails(bus, f"127.0.0.1:{server.port}", tls=wrong))
    connect(bus, f"127.0.0.1:{server.port}", tls=TlsConfig(ca=ca, hostname="localhost")).close(5)


def test_only_a_known_client_certificate_lets_us_in(bus, serve, certificates):
    server = serve(jetstream=False, tls=certificates, verify_clients=True)
    place, ca = f"127.0.0.1:{server.port}", str(certificates.ca)
    fails(bus, place, tls=TlsConfig(ca=ca))
    stranger = (str(certificates.other_client_cert), str(certificates.other_client_key))
    fails(bus, place, tls=TlsConfig(ca=ca, certificate=stranger[0], key=stranger[1]))
    known = TlsConfig(ca=ca, certificate=str(certificates.client_cert), key=str(certificates.client_key))
    connect(bus, place, tls=known).close(5)


def test_handshake_first(bus, serve, certificates):
    server = serve(jetstream=False, tls=certificates, handshake_first=True)
    place = f"127.0.0.1:{server.port}"
    tls = TlsConfig(ca=str(certificates.ca), handshake_first=True)
    connect(bus, place, tls=tls).close(5)
    assert NatsBackend(NatsConfig(servers=place, tls=tls)).reachable(2.0, StopToken())
    server.kill()
    assert not NatsBackend(NatsConfig(servers=place, tls=tls)).reachable(0.5, StopToken())


def test_tls_is_never_left_out(bus, serve, certificates):
    server = serve(jetstream=False)
    error = fails(bus, f"127.0.0.1:{server.port}", tls=TlsConfig(ca=str(certificates.ca)))
    assert "offers no TLS" in str(error)


def test_missing_certificate_file(bus, serve, certificates):
    server = serve(jetstream=False, tls=certificates)
    error = fails(bus, f"127.0.0.1:{server.port}", tls=TlsConfig(ca="/nowhere/ca.pem"))
    assert "No such file" in str(error)


# -- reachable ------------------------------------------------------------------------------------


def test_reachable_wants_a_server_that_speaks(serve):
    server = serve(jetstream=False)
    stop = StopToken()

    def reachable(*servers: str, timeout: float = 0.3) -> bool:
        return NatsBackend(NatsConfig(servers=servers)).reachable(timeout, stop)

    place = f"127.0.0.1:{server.port}"
    assert reachable(place)
    with ScriptedServer(lambda link: link.hang()) as silent, ScriptedServer(SILENT["is a web server"]) as web:
        assert not reachable(silent.url, web.url)
        assert reachable(silent.url, web.url, place)  # asked all at once
    server.kill()
    assert not reachable(place)
    assert not reachable("nowhere.invalid:4222")


def test_reachable_obeys_a_stop(bus):
    with ScriptedServer(lambda link: link.hang()) as silent:
        threading.Timer(0.1, bus.stop.set).start()
        started = time.monotonic()
        assert not NatsBackend(NatsConfig(servers=silent.url)).reachable(30.0, bus.stop)
        assert time.monotonic() - started < 1.0


def test_frozen_server(bus, serve):
    server: NatsServer = serve(jetstream=False)
    server.freeze()
    bus.timeout = 0.5
    error = fails(bus, f"127.0.0.1:{server.port}")
    assert not error.server_spoke
    assert "takes connections, but no NATS server answers" in str(error)
    server.thaw()
