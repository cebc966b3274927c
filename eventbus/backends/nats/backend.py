"""The recipe for NATS sessions."""

from __future__ import annotations

import secrets
import socket

from ...config import NatsConfig
from ...errors import ConnectFailedError, NotConnectedError
from ...features import Features
from ...threads import Deadline, StopToken
from ..base import SessionContext
from .core.session import NatsSession
from .jetstream.in_hand import NatsInHand
from .jetstream.ordered_in_hand import OrderedInHand
from .jetstream.session import JetStreamSession
from .jetstream.streams import Learned
from .link.addresses import ServerPool
from .link.credentials import CredentialsReader
from .link.dialing import Dialer, Link
from .link.reachability import any_speaks


class NatsBackend:
    """Makes sessions on a NATS server or cluster; ConfigError for a server that is malformed.

    It holds configuration, and the one thing that sessions learn for each other: which servers the cluster
    has announced or is taking down, which streams take which topics, and which were complained about, to do so once.
    """

    name = "nats"
    waits_in_c = False
    retry_interval = 0.5

    def __init__(self, config: NatsConfig) -> None:
        self._config = config
        self._pool = ServerPool(config.servers)
        self._learned = Learned()
        self._credentials = CredentialsReader(config)
        self._instance = secrets.token_hex(8)
        self.features = Features(
            durable=config.jetstream,
            confirms_publish=config.jetstream,
            replays=config.jetstream,
            groups=True,
            ordered_by_key=False,
            ordered_groups=config.jetstream,
            deduplicates=config.jetstream,
            heals_itself=False,
            counts_attempts=config.jetstream,
            takes_back=config.jetstream,
            readable=config.jetstream,
        )

    def connect(self, context: SessionContext) -> NatsSession:
        """Dial a server, proven by the handshake's PONG and with JetStream its `INFO`, within the context's time.

        What one of them answers to that is no answer of the others, and each has its share of the time for it.
        """
        deadline, servers, failures = Deadline(context.timeout), self._pool.in_order(), list[ConnectFailedError]()
        client_name = self._config.client_name or f"eventbus-{context.bus}@{socket.gethostname()}"
        dialer = Dialer(self._config, client_name, self._credentials)
        while servers and not (failures and deadline.over):
            try:
                link = dialer.dial(servers, deadline.remaining(), context.stop)
            except ConnectFailedError as error:
                failures.append(error)
                break
            try:
                return self._proven(link, context, deadline, deadline.share(1 / len(servers)))
            except ConnectFailedError as error:
                failures.append(error)
                servers = [server for server in servers if server != link.server]
        raise failures[0]

    def _proven(self, link: Link, context: SessionContext, deadline: Deadline, patience: float) -> NatsSession:
        session = self._session(link, context)
        try:
            if isinstance(session, JetStreamSession):
                session.prove(patience, context.stop)
            session.announce()
        except NotConnectedError as error:
            session.close(deadline.remaining())
            raise ConnectFailedError(f"{link.server}: {error}", server_spoke=True) from error
        except BaseException:
            session.close(max(0.5, deadline.remaining()))
            raise
        return session

    def new_in_hand(self, ordered: bool = False) -> NatsInHand:
        """By stream and sequence."""
        return OrderedInHand() if ordered else NatsInHand()

    def reachable(self, timeout: float, stop: StopToken) -> bool:
        """Whether one of the servers sends the beginning of INFO within `timeout` seconds. Never raises."""
        return any_speaks(self._config, self._pool.in_order(), timeout, stop)

    def _session(self, link: Link, context: SessionContext) -> NatsSession:
        if self._config.jetstream:
            return JetStreamSession(link, self._config, context, self._pool, self._instance, self._learned)
        return NatsSession(link, self._config, context, self._pool)
