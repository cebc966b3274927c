"""Sessions and backends that do what a test tells them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from eventbus.backends.base import Prepared, SessionContext
from eventbus.consuming.acknowledgements import Acknowledgements
from eventbus.consuming.attachment import Attachment
from eventbus.consuming.budget import Budget
from eventbus.consuming.consumption import Consumption, Surroundings
from eventbus.consuming.in_hand import InHandByIdentity
from eventbus.consuming.subscriptions import Subscription
from eventbus.errors import EventBusError, SessionRetired
from eventbus.features import Features
from eventbus.message import Receipt
from eventbus.publishing.records import Claim, Given, Record, Result, number_of
from eventbus.threads import StopToken


class FakeSink:
    """A port, and the session around it: takes `room` records until it is retired; the test answers them."""

    def __init__(self, room: int | None = None) -> None:
        self.taken: list[Record] = []
        self.seen: list[int] = []
        self.retired = False
        self.room = room
        self.lock = threading.Lock()

    @property
    def publisher(self) -> FakeSink:
        return self

    def publish(self, records: Sequence[Record]) -> int:
        with self.lock:
            for taken, record in enumerate(records):
                if self.retired or self.room == 0:
                    self.retired = True
                    return taken
                if self.room is not None:
                    self.room -= 1
                self.taken.append(record)
                self.seen.append(number_of(record))
            return len(records)

    def retire(self, patience: float = 0.0) -> None:
        with self.lock:
            self.retired = True

    def abandon(self, patience: float = 0.0) -> None:
        self.retire(patience)

    def take(self, count: int) -> list[Record]:
        """Read so many of what was sent: the test answers them."""
        with self.lock:
            read, self.taken = self.taken[:count], self.taken[count:]
            return read


def given(
    topic: str,
    payload: object,
    key: str | bytes | None = None,
    *,
    headers: Any = None,
    id: str | None = None,
    partition: int | None = None,
    timestamp: datetime | None = None,
) -> Given:
    """What a caller passes to a verb of publishing."""
    return topic, payload, key, headers, id, partition, timestamp


def consumption(topic: str = "t", group: str | None = "g", handler: Any = print, **options: Any) -> Consumption:
    """A subscription at work, as `Consumers.add` makes it."""
    sub = Subscription(topic, group=group, concurrency=1, start="earliest")
    made: dict[str, Any] = {"replays": True, "report": lambda event: None, "prefetch": 1024, "prefetch_bytes": 1 << 25}
    around = Surroundings(
        **{
            "owner": None,
            "bus": "test",
            "acknowledgements": Acknowledgements("eventbus.test.acknowledgements"),
            "budget": Budget(1 << 30),
            **made,
            **options,
        }
    )
    return Consumption(sub, handler, InHandByIdentity(), around)


class Waiter(Claim):
    """Notes its answers; more than one is a bug."""

    def __init__(self, number: int = 1) -> None:
        super().__init__(number)
        self.results: list[Result] = []

    def answer(self, result: Result, number: int = 0) -> None:
        self.results.append(result)
        assert len(self.results) == 1, f"answered twice: {self.results}"

    def forked(self, error: EventBusError) -> None:
        raise AssertionError("nobody forks here")

    @property
    def is_confirmed(self) -> bool:
        return bool(self.results) and isinstance(self.results[0], Receipt)


FEATURES = Features(
    durable=True,
    confirms_publish=True,
    replays=True,
    groups=True,
    ordered_by_key=True,
    ordered_groups=True,
    deduplicates=True,
    heals_itself=False,
    counts_attempts=True,
)


class FakeSession(FakeSink):
    """A link that fails on request."""

    def __init__(self, context: SessionContext) -> None:
        super().__init__()
        self.context = context
        self.lost: BaseException | None = None
        self.fault: BaseException | None = None
        self.refused: dict[Any, Exception] = {}
        self.attached: list[Subscription] = []
        self.closed = 0

    def probe(self, timeout: float, stop: StopToken) -> str:
        stop.check()
        if self.fault is not None:
            raise self.fault
        return "fine"

    def lose(self, cause: BaseException) -> None:
        self.lost, self.retired = cause, True
        self.context.on_lost(self, cause)  # type: ignore[arg-type]

    def prepare(self, attachments: Sequence[Attachment], timeout: float) -> Prepared:
        return Prepared(refused={one: self.refused[one.topic] for one in attachments if one.topic in self.refused})

    def attach(self, attachments: Sequence[Attachment]) -> None:
        if self.retired:
            raise SessionRetired
        self.attached.extend(one.sub for one in attachments)
        if self.context is not None:
            self.context.on_served(attachments)

    def detach(self, attachment: Attachment, timeout: float) -> None:
        self.attached.remove(attachment.sub)

    def resume(self, attachment: Attachment) -> None: ...

    def acknowledge(self, attachment: Attachment, deliveries: Any) -> None: ...

    def release(self, attachment: Attachment, deliveries: Any, delay: float = 0.0) -> None: ...

    def lag(self, attachment: Attachment) -> int | None: ...

    def partitions(self, attachment: Attachment) -> tuple[Any, ...]:
        return ()

    def drain(self, timeout: float) -> None: ...

    def close(self, timeout: float) -> tuple[str, ...]:
        self.retired = True
        self.closed += 1
        return ()


class FakeBackend:
    """`outcomes` says what each connect does: an error to raise, or None for a session."""

    name = "fake"
    features = FEATURES
    waits_in_c = False
    retry_interval = 0.02

    def __init__(self) -> None:
        self.outcomes: list[BaseException | None] = []
        self.always: BaseException | None = None
        self.sessions: list[FakeSession] = []
        self.connects = 0
        self.speaks = threading.Event()
        self.contexts: list[SessionContext] = []

    def connect(self, context: SessionContext) -> FakeSession:
        context.stop.check()
        self.connects += 1
        self.contexts.append(context)
        outcome = self.outcomes.pop(0) if self.outcomes else self.always
        if outcome is not None:
            raise outcome
        session = FakeSession(context)
        self.sessions.append(session)
        return session

    def new_in_hand(self, ordered: bool = False) -> InHandByIdentity:
        return InHandByIdentity()

    def reachable(self, timeout: float, stop: StopToken) -> bool:
        return self.speaks.is_set()
