"""librdkafka's mock of a Kafka cluster: for faults that nobody can order from a real one.

>>> from eventbus.testing.servers.kafka_mock import MockKafka
>>> with MockKafka(brokers=3) as mock:                # doctest: +SKIP
...     mock.create_topic("orders", partitions=4)
...     client.connect(mock.url)
...     mock.push_errors("Produce", 7, 7, DISCONNECT)  # the next three requests fail
"""

from __future__ import annotations

import ctypes as c
from collections import Counter
from typing import Literal

from eventbus.testing.faults import TcpProxy
from eventbus.testing.servers.kafka_mock_library import APIS, Library, api_number, load_library
from eventbus.testing.servers.process import ServerFailed

#: A code for :meth:`MockKafka.push_errors`: hang up instead of answering.
DISCONNECT = -195

_ALL = -1
_NONE = -1
_NAMES = {number: name for name, number in APIS.items()}


class MockKafka:
    """Some brokers of librdkafka's own, in a thread of this process, up in 5 ms.

    Brokers are numbered from 1. It produces, consumes, commits, does transactions and groups of
    both protocols; it lacks CreateTopics (:meth:`create_topic`), access rights, SASL, TLS and any
    persistence, and drops the oldest of more than 5 MiB or 100,000 batches of a partition. Methods
    are for any thread, but not beside :meth:`close`. Times are seconds.
    """

    def __init__(self, brokers: int = 1, *, proxied: bool = False, rebalance_delay: float = 0.0) -> None:
        """Start the brokers. ``proxied``: clients are sent through a :class:`TcpProxy` for each.

        ``rebalance_delay``: see :meth:`rebalance_delay`.

        Raises:
            ValueError: fewer than one broker.
            ServerUnavailable: confluent-kafka is not installed, or brings no mock.
            ServerFailed: librdkafka refused.
        """
        if brokers < 1:
            raise ValueError(f"a mock cluster of {brokers}")
        self.brokers = brokers
        self._library: Library = load_library()
        self._handle = self._library.handle()
        self._cluster = self._library.mock_cluster_new(self._handle, brokers)
        if not self._cluster:
            self._library.destroy(self._handle)
            raise ServerFailed("librdkafka made no mock cluster")
        self._proxies: list[TcpProxy] = []
        self._addresses = _addresses(self._library.mock_cluster_bootstraps(self._cluster).decode())
        try:
            self.rebalance_delay(rebalance_delay)
            if proxied:
                self._put_proxies()
        except BaseException:
            self.close()
            raise

    @property
    def bootstrap(self) -> str:
        """``bootstrap.servers`` for clients: the proxies where there are any."""
        addresses = [proxy.address for proxy in self._proxies] or self._addresses
        return ",".join(f"{host}:{port}" for host, port in addresses)

    @property
    def url(self) -> str:
        """The URL for clients: ``kafka://a,b,c``."""
        return f"kafka://{self.bootstrap}"

    @property
    def client_options(self) -> dict[str, str]:
        """Nothing: it has no security."""
        return {}

    @property
    def proxies(self) -> list[TcpProxy]:
        """The proxy in front of each broker, the first for broker 1.

        Raises:
            ServerFailed: it was made without ``proxied=True``.
        """
        if not self._proxies:
            raise ServerFailed("the mock cluster has no proxies: it was made without proxied=True")
        return list(self._proxies)

    def refuse(self, broker: int | None = None) -> None:
        """Cut the connections of a broker (of all) and refuse new ones, until :meth:`accept`."""
        self._check(self._library.mock_broker_set_down(self._open(), _broker(broker)), f"broker {broker}")

    def accept(self, broker: int | None = None) -> None:
        """Let a broker (all) accept connections again, at the same port."""
        self._check(self._library.mock_broker_set_up(self._open(), _broker(broker)), f"broker {broker}")

    def delay(self, seconds: float, broker: int | None = None) -> None:
        """Let a broker (all) answer every request that much later; 0 ends it.

        Raises:
            ValueError: a negative time.
        """
        done = self._library.mock_broker_set_rtt(self._open(), _broker(broker), _milliseconds(seconds))
        self._check(done, f"broker {broker}")

    def create_topic(self, name: str, partitions: int = 1, replicas: int = 1) -> None:
        """Make a topic; without, a client that asks for one makes it, with 4 partitions.

        Raises:
            ServerFailed: it is there already, or more replicas than brokers are wanted.
        """
        done = self._library.mock_topic_create(self._open(), name.encode(), partitions, replicas)
        self._check(done, f"topic {name}")

    def topic_error(self, name: str, code: int) -> None:
        """Answer questions about a topic with Kafka's error ``code``; 0 ends it."""
        self._library.mock_topic_set_error(self._open(), name.encode(), code)

    def set_leader(self, topic: str, partition: int, broker: int | None) -> None:
        """Move a partition to another broker; ``None``: it has no leader."""
        leader = _NONE if broker is None else broker
        done = self._library.mock_partition_set_leader(self._open(), topic.encode(), partition, leader)
        self._check(done, f"leader {broker} of {topic}/{partition}")

    def set_coordinator(self, key: str, broker: int, kind: Literal["group", "transaction"] = "group") -> None:
        """Let ``broker`` coordinate the group (or transactional id) ``key``."""
        done = self._library.mock_coordinator_set(self._open(), kind.encode(), key.encode(), broker)
        self._check(done, f"coordinator {broker} of {key}")

    def push_errors(self, api: str | int, *codes: int) -> None:
        """Answer the next requests of a kind (``"Produce"``) with these codes, one each.

        A code is one of Kafka's (``KafkaError.REQUEST_TIMED_OUT``), 0 for none, or
        :data:`DISCONNECT`.

        Raises:
            ValueError: no such kind of request.
        """
        errors = (c.c_int * len(codes))(*codes)
        self._library.mock_push_request_errors_array(self._open(), api_number(api), len(codes), errors)

    def push_answers(self, broker: int, api: str | int, *answers: tuple[int, float]) -> None:
        """Answer the next requests of that kind at one broker so: each a code and how many seconds late it comes.

        Raises:
            ValueError: no such kind of request, or a negative time.
            ServerFailed: no such broker.
        """
        flat = [number for code, seconds in answers for number in (code, _milliseconds(seconds))]
        done = self._library.mock_broker_push_request_error_rtts(
            self._open(), broker, api_number(api), len(answers), *map(c.c_int, flat)
        )
        self._check(done, f"broker {broker}")

    def clear_errors(self, api: str | int) -> None:
        """Forget what :meth:`push_errors` has left for that kind of request.

        Raises:
            ValueError: no such kind of request.
        """
        self._library.mock_clear_request_errors(self._open(), api_number(api))

    def set_api_versions(self, api: str | int, lowest: int, highest: int) -> None:
        """Offer only these versions of a request, none that the mock lacks; for new connections.

        Raises:
            ValueError: no such kind of request.
        """
        done = self._library.mock_set_apiversion(self._open(), api_number(api), lowest, highest)
        self._check(done, f"versions {lowest} to {highest} of {api}")

    def remove_api(self, api: str | int) -> None:
        """Know no such request, as an older Kafka (``"ConsumerGroupHeartbeat"``: before 4.0).

        Raises:
            ValueError: no such kind of request.
        """
        self.set_api_versions(api, _NONE, _NONE)

    def rebalance_delay(self, seconds: float) -> None:
        """Wait that long for more members before a new group of the classic protocol begins."""
        self._library.mock_group_initial_rebalance_delay_ms(self._open(), _milliseconds(seconds))

    def session_timeout(self, seconds: float) -> None:
        """Remove a silent member of a group of the new protocol (KIP-848) after that long."""
        self._library.mock_set_group_consumer_session_timeout_ms(self._open(), _milliseconds(seconds))

    def heartbeat_interval(self, seconds: float) -> None:
        """Let members of groups of the new protocol (KIP-848) send heartbeats that often."""
        self._library.mock_set_group_consumer_heartbeat_interval_ms(self._open(), _milliseconds(seconds))

    def track(self) -> None:
        """Begin to count :meth:`requests`, from nothing."""
        self._library.mock_clear_requests(self._open())
        self._library.mock_start_request_tracking(self._open())

    def untrack(self) -> None:
        """Count no more; what was counted stays."""
        self._library.mock_stop_request_tracking(self._open())

    def requests(self, broker: int | None = None) -> Counter[str]:
        """Return how many requests came since :meth:`track`, to one broker or all, by their kind.

        Kinds are names as ``"Produce"``; a number where there is no name for it here.
        """
        library, count = self._library, c.c_size_t()
        found = library.mock_get_requests(self._open(), c.byref(count))
        counted: Counter[str] = Counter()
        try:
            for request in found[: count.value] if count.value else []:
                if broker in (None, library.mock_request_id(request)):
                    api = library.mock_request_api_key(request)
                    counted[_NAMES.get(api, str(api))] += 1
        finally:
            if count.value:
                library.mock_request_destroy_array(found, count)
        return counted

    def close(self) -> None:
        """End the brokers and their proxies, with all that was in them. Idempotent."""
        cluster, self._cluster = self._cluster, None
        for proxy in self._proxies:
            proxy.stop()
        if cluster:
            self._library.mock_cluster_destroy(cluster)
            self._library.destroy(self._handle)

    def __enter__(self) -> MockKafka:
        """Return itself: it runs already."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Close it."""
        self.close()

    def _open(self) -> int:
        if not self._cluster:
            raise ServerFailed("the mock cluster is closed")
        return int(self._cluster)

    def _check(self, code: int, what: str) -> None:
        self._library.check(code, what)

    def _put_proxies(self) -> None:
        for number, (host, port) in enumerate(self._addresses, 1):
            proxy = TcpProxy(host, port).start()
            self._proxies.append(proxy)
            self._library.mock_broker_set_host_port(self._open(), number, proxy.address[0].encode(), proxy.port)


def _addresses(bootstraps: str) -> list[tuple[str, int]]:
    pairs = [address.rpartition(":") for address in bootstraps.split(",")]
    return [(host, int(port)) for host, _, port in pairs]


def _broker(broker: int | None) -> int:
    return _ALL if broker is None else broker


def _milliseconds(seconds: float) -> int:
    if seconds < 0:
        raise ValueError(f"a time of {seconds} s")
    return round(seconds * 1000)
