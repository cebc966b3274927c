"""librdkafka's functions for its mock cluster, found in the library that confluent-kafka brings."""

from __future__ import annotations

import ctypes as c
import functools
import glob
import os
from typing import Any

from eventbus.testing.servers.process import ServerFailed, ServerUnavailable

#: Kafka's numbers for the requests that the mock answers.
APIS = {
    "Produce": 0,
    "Fetch": 1,
    "ListOffsets": 2,
    "Metadata": 3,
    "OffsetCommit": 8,
    "OffsetFetch": 9,
    "FindCoordinator": 10,
    "JoinGroup": 11,
    "Heartbeat": 12,
    "LeaveGroup": 13,
    "SyncGroup": 14,
    "SaslHandshake": 17,
    "ApiVersions": 18,
    "CreateTopics": 19,
    "InitProducerId": 22,
    "OffsetForLeaderEpoch": 23,
    "AddPartitionsToTxn": 24,
    "AddOffsetsToTxn": 25,
    "EndTxn": 26,
    "TxnOffsetCommit": 28,
    "DescribeCluster": 60,
    "ConsumerGroupHeartbeat": 68,
    "GetTelemetrySubscriptions": 71,
    "PushTelemetry": 72,
}

_P, _I, _I16, _I32, _S, _SIZE = c.c_void_p, c.c_int, c.c_int16, c.c_int32, c.c_char_p, c.c_size_t
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "conf_new": (_P, []),
    "conf_destroy": (None, [_P]),
    "conf_set": (_I, [_P, _S, _S, _S, _SIZE]),
    "new": (_P, [_I, _P, _S, _SIZE]),
    "destroy": (None, [_P]),
    "err2str": (_S, [_I]),
    "mock_cluster_new": (_P, [_P, _I]),
    "mock_cluster_destroy": (None, [_P]),
    "mock_cluster_bootstraps": (_S, [_P]),
    "mock_broker_set_down": (_I, [_P, _I32]),
    "mock_broker_set_up": (_I, [_P, _I32]),
    "mock_broker_set_rtt": (_I, [_P, _I32, _I]),
    "mock_broker_set_host_port": (None, [_P, _I32, _S, _I]),
    # Takes a code and milliseconds after these, as often as the last of them says.
    "mock_broker_push_request_error_rtts": (_I, [_P, _I32, _I16, _SIZE]),
    "mock_topic_create": (_I, [_P, _S, _I, _I]),
    "mock_topic_set_error": (None, [_P, _S, _I]),
    "mock_partition_set_leader": (_I, [_P, _S, _I32, _I32]),
    "mock_coordinator_set": (_I, [_P, _S, _S, _I32]),
    "mock_group_initial_rebalance_delay_ms": (None, [_P, _I32]),
    "mock_push_request_errors_array": (None, [_P, _I16, _SIZE, c.POINTER(_I)]),
    "mock_clear_request_errors": (None, [_P, _I16]),
    "mock_set_apiversion": (_I, [_P, _I16, _I16, _I16]),
    "mock_set_group_consumer_session_timeout_ms": (None, [_P, _I]),
    "mock_set_group_consumer_heartbeat_interval_ms": (None, [_P, _I]),
    "mock_start_request_tracking": (None, [_P]),
    "mock_stop_request_tracking": (None, [_P]),
    "mock_clear_requests": (None, [_P]),
    "mock_get_requests": (c.POINTER(_P), [_P, c.POINTER(_SIZE)]),
    "mock_request_destroy_array": (None, [c.POINTER(_P), _SIZE]),
    "mock_request_api_key": (_I16, [_P]),
    "mock_request_id": (_I32, [_P]),
}
_PRODUCER = 0
_TEXT = 512


class Library:
    """The functions, without their prefix ``rd_kafka_``; they may be called by any thread."""

    def __init__(self, library: c.CDLL) -> None:
        """Declare the functions; one that is missing fails where it is used."""
        self._library = library
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, f"rd_kafka_{name}", None)
            if function is not None:
                function.restype, function.argtypes = result, arguments

    def __getattr__(self, name: str) -> Any:
        """Return a function.

        Raises:
            ServerUnavailable: this librdkafka has none of that name.
        """
        try:
            return getattr(self._library, f"rd_kafka_{name}")
        except AttributeError:
            raise ServerUnavailable(f"this librdkafka cannot do it: no rd_kafka_{name}") from None

    def check(self, code: int, what: str) -> None:
        """Do nothing if ``code`` is that of success.

        Raises:
            ServerFailed: it is an error's; names it.
        """
        if code:
            raise ServerFailed(f"the mock cluster refused {what}: {self.err2str(code).decode()} ({code})")

    def handle(self) -> int:
        """Return a client that talks to nobody: what a mock cluster belongs to.

        Raises:
            ServerFailed: librdkafka refused.
        """
        text = c.create_string_buffer(_TEXT)
        config = self.conf_new()
        for key, value in (("client.id", "eventbus-mock"), ("log_level", "0")):
            if self.conf_set(config, key.encode(), value.encode(), text, _TEXT):
                self.conf_destroy(config)
                raise ServerFailed(f"librdkafka refused {key}: {text.value.decode()}")
        handle = self.new(_PRODUCER, config, text, _TEXT)
        if not handle:
            self.conf_destroy(config)
            raise ServerFailed(f"librdkafka made no client: {text.value.decode()}")
        return int(handle)


@functools.lru_cache(maxsize=1)
def load_library() -> Library:
    """Return the functions of the librdkafka that confluent-kafka itself uses.

    Raises:
        ServerUnavailable: confluent-kafka is not installed, or its librdkafka has no mock cluster.
    """
    try:
        import confluent_kafka
    except ImportError as exc:
        raise ServerUnavailable(f"no mock of Kafka: confluent-kafka is not installed ({exc})") from exc
    found = _candidates(os.path.dirname(os.path.abspath(confluent_kafka.__file__)))
    for path in found:
        try:
            library = c.CDLL(path)
        except OSError:
            continue
        if hasattr(library, "rd_kafka_mock_cluster_new"):
            return Library(library)
    tried = ", ".join(found) or "none"
    raise ServerUnavailable(f"no mock of Kafka: no librdkafka with a mock cluster (found: {tried})")


def _candidates(package: str) -> list[str]:
    """Return the libraries that may be the one, the one in use first: two would not know each other."""
    patterns = (
        os.path.join(os.path.dirname(package), "confluent_kafka.libs", "librdkafka*.so*"),
        os.path.join(package, ".dylibs", "librdkafka*.dylib"),
        "/usr/local/lib/librdkafka.so.1",
        "/usr/lib/*/librdkafka.so.1",
        "/usr/lib/librdkafka.so.1",
    )
    return [path for pattern in patterns for path in sorted(glob.glob(pattern))]


def api_number(api: str | int) -> int:
    """Return Kafka's number of a request: ``"Produce"`` is 0.

    Raises:
        ValueError: no such request.
    """
    if isinstance(api, int):
        return api
    if api not in APIS:
        raise ValueError(f"no such request: {api!r}; there are {', '.join(APIS)}")
    return APIS[api]
