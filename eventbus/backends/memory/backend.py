"""The recipe for sessions on the memory broker."""

from __future__ import annotations

from ...config import MemoryConfig
from ...consuming.in_hand import InHandByIdentity
from ...errors import ConnectFailedError, NotConnectedError
from ...features import Features
from ...threads import Deadline, Stopped, StopToken
from ..base import SessionContext
from .broker import Condition, MemoryBroker, broker_named
from .session import MemorySession
from .waiting import wait_answering


class MemoryBackend:
    """A recipe for sessions on the broker of a name."""

    name = "memory"
    waits_in_c = False
    retry_interval = 0.5
    features = Features(
        durable=False,
        confirms_publish=True,
        replays=True,
        groups=True,
        ordered_by_key=True,
        ordered_groups=True,
        deduplicates=True,
        heals_itself=False,
        counts_attempts=True,
        carries_bytes=True,
        readable=True,
    )

    def __init__(self, config: MemoryConfig) -> None:
        self._config = config
        broker_named(config)  # the first one to ask sets its partitions and bounds

    @property
    def _broker(self) -> MemoryBroker:
        # Looked up anew: a child that was forked meanwhile has brokers of its own.
        return broker_named(self._config)

    def connect(self, context: SessionContext) -> MemorySession:
        """A session, once the broker answers."""
        deadline = Deadline(context.timeout)
        broker = self._broker
        try:
            wait_answering(broker, deadline, context.stop)
        except NotConnectedError as error:
            raise ConnectFailedError(str(error)) from error
        with broker.lock:
            if broker.condition is not Condition.UP:
                raise ConnectFailedError(f"memory broker is {broker.condition.value}")
            session = MemorySession(broker, context)
            broker.sessions.append(session)
        return session

    def new_in_hand(self, ordered: bool = False) -> InHandByIdentity:
        """By the place in the topic."""
        return InHandByIdentity()

    def reachable(self, timeout: float, stop: StopToken) -> bool:
        """Whether the broker answers; not once a stop is asked for."""
        try:
            wait_answering(self._broker, Deadline(timeout), stop)
        except (ConnectFailedError, NotConnectedError, Stopped):
            return False
        return self._broker.condition is Condition.UP
