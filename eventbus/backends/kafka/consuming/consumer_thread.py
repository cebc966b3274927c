"""A subscription on a session: the thread that owns its consumer, and what other threads ask of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from .... import log
from ....consuming.attachment import Attachment
from ....errors import EventBusError, NotConnectedError
from ....threads import Deadline, join_all, spawn
from ..clients.group_protocol import GroupProtocol
from ..clients.options import ClientOptions
from ..names import TopicPartition
from .in_hand import PartitionState, in_hand_of
from .member import BeyondHelp, Member, ProtocolRefused
from .requests import Request

logger = log.get(__name__)

LEAVE = 2.0
"""Seconds that the consumer before has to leave the group, when another one takes over."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
COMPLAIN_EVERY = 30.0
"""Seconds before the same trouble is reported again."""


@frozen
class Shared:
    """What all feeds of a session share."""

    options: ClientOptions
    thread_name: str
    instance: str
    protocol: GroupProtocol
    on_error: Callable[[Exception], None]


class ConsumerThread:
    """Owns one consumer after the other, on one thread. All methods are thread-safe.

    `lock` guards the logs: whoever acknowledges does so from a lane.
    """

    def __init__(self, attachment: Attachment, shared: Shared, topics: Mapping[str, Sequence[int]]) -> None:
        self.attachment = attachment
        self.deliver = attachment.deliver
        self.shared = shared
        self.topics = topics
        self.journal = in_hand_of(attachment)
        self.lock = self.journal.lock
        self.logs: dict[TopicPartition, PartitionState] = {}
        self.order = Request.FETCH
        self.full = False
        self.room = threading.Event()
        self.acknowledged = threading.Event()
        self.unsettled = False
        """Acknowledgements are on their way to the broker."""
        self.beat = time.monotonic()
        self.rebuilds = 0
        self._member: Member | None = None
        self._rebuild: Exception | None = None
        self._wake = threading.Event()
        self._complaints: dict[str, float] = {}
        self._predecessor = self.journal.previous
        self.journal.previous = self.thread = spawn(f"{shared.thread_name}-{attachment.topic}", self._run)

    # -- what others ask -------------------------------------------------------------------------

    def obey(self, order: Request) -> None:
        """Give the owner an order; one that asks for less than an earlier one is ignored."""
        with self.lock:
            self.order = max(self.order, order)
            self.journal.ending |= order is Request.ACKNOWLEDGE or order is Request.LEAVE
        self.room.set()
        self._wake.set()

    def follow(self, topics: Mapping[str, Sequence[int]]) -> None:
        """These are the topics and partitions now."""
        self.topics = topics
        self._wake.set()

    def rebuild(self, cause: Exception) -> None:
        """Replace the consumer."""
        self._rebuild = cause
        self._wake.set()

    def resume(self) -> None:
        """The lanes have room."""
        self.full = False
        self.room.set()

    def note_done(self) -> None:
        """Something was acknowledged, or given back."""
        self.acknowledged.set()

    @property
    def consumer(self) -> object:
        """The client at work; None between two."""
        member = self._member
        return None if member is None else member.consumer

    @property
    def busy(self) -> bool:
        """Whether something is with the lanes."""
        with self.lock:
            return any(log.busy for log in self.logs.values())

    def standing(self, seconds: float) -> dict[TopicPartition, int]:
        """Where it has not moved for so many seconds although it could have: see `Standstill`."""
        member = self._member
        return {} if member is None else member.standstill.for_longer_than(seconds)

    def settled(self) -> bool:
        """Whether the broker has confirmed all acknowledgements."""
        with self.lock:
            return not self.unsettled and all(log.committable is None for log in self.logs.values())

    def check(self, patience: float) -> None:
        """NotConnectedError when the owner thread is dead, or hangs for more than `patience` seconds."""
        if not self.thread.is_alive():
            raise NotConnectedError(f"the consumer thread of {self.attachment.topic} has died")
        silent = time.monotonic() - self.beat
        if silent > patience:
            raise NotConnectedError(f"the consumer thread of {self.attachment.topic} hangs since {silent:.0f} s")

    def wait_ended(self, timeout: float) -> tuple[str, ...]:
        """Wait for the thread; its name if it is not out after `timeout` seconds."""
        return join_all([self.thread], timeout)

    # -- the owner thread ------------------------------------------------------------------------

    def complain(self, error: Exception) -> None:
        """Report trouble, the same one not too often."""
        text, now = str(error), time.monotonic()
        if now - self._complaints.get(text, -COMPLAIN_EVERY) >= COMPLAIN_EVERY:
            self._complaints[text] = now
            logger.warning("%r: %s", self.attachment, text)
            self.shared.on_error(error)

    def asked_to_rebuild(self) -> Exception | None:
        """Why the consumer is to be replaced, told once."""
        cause, self._rebuild = self._rebuild, None
        return cause

    def pause(self, seconds: float) -> None:
        """Sleep until something is asked, or up to so many seconds."""
        self._wake.wait(seconds)
        self._wake.clear()
        self.beat = time.monotonic()

    def _run(self) -> None:
        if self._predecessor is not None:
            self._await(self._predecessor)
            self._predecessor = None
        pause = FIRST_PAUSE
        while self.order is not Request.END and not (self.order is Request.LEAVE and not self.busy):
            began = time.monotonic()
            if self._one_member():
                return
            self.rebuilds += 1
            if time.monotonic() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            deadline = Deadline(pause)
            while not deadline.over and self.order < Request.LEAVE:
                self.pause(min(0.5, deadline.remaining()))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _await(self, predecessor: threading.Thread) -> None:
        deadline = Deadline(LEAVE)
        while predecessor.is_alive() and not deadline.over and self.order is not Request.END:
            predecessor.join(0.05)
            self.beat = time.monotonic()

    def _one_member(self) -> bool:
        """One consumer from birth to end; False when another one has to follow."""
        member: Member | None = None
        try:
            self._member = member = Member(self)
            member.run()
        except ProtocolRefused as error:
            logger.info("%r: %s: the classic group protocol is used", self.attachment, error)
            self.shared.protocol.refuse()
        except (BeyondHelp, EventBusError) as error:
            self.complain(error)
        except Exception as error:
            logger.exception("%r: the consumer failed in an unexpected way", self.attachment)
            self.complain(error)
        else:
            return True
        finally:
            self._member = None
            with self.lock:
                self.logs = {}
            if member is not None:
                self._retire(member)
        return False

    def _retire(self, member: Member) -> None:
        """End a consumer; where another one follows, on a thread of its own that is not waited for long."""
        if self.order >= Request.LEAVE:
            member.end()
            return
        reaper = spawn(f"{threading.current_thread().name}-closing", member.end)
        del member
        self._await(reaper)
