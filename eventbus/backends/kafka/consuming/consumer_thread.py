"""The thread that owns a consumer, and what other threads ask of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from .... import log
from ....consuming.attachment import Attachment
from ....consuming.subscriptions import SubscriptionState
from ....errors import EventBusError, NotConnectedError
from ....threads import Deadline, join_all, spawn
from ..clients.errors import ClientErrors
from ..names import TopicPartition
from .assignment import JOINING
from .member import BeyondHelp, Member, ProtocolRefused
from .reader import Reader
from .requests import Request
from .shared import ConsumerKey, Shared
from .stalls import SILENT

logger = log.get(__name__)

LEAVE = 2.0
"""Seconds that the consumer before has to leave the group, when another one takes over."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
COMPLAIN_EVERY = 30.0
"""Seconds before the same trouble is reported again."""


class ConsumerThread:
    """Owns one consumer after the other, for all subscriptions that share it. All methods are thread-safe."""

    def __init__(self, key: ConsumerKey, shared: Shared) -> None:
        self.key = key
        self.shared = shared
        self.errors = ClientErrors(f"{shared.thread_name}-{key.name}")
        self.request = Request.FETCH
        self.rebuilds = 0
        self.beat = time.monotonic()
        self._readers: tuple[Reader, ...] = ()
        """Replaced as a whole, under the lock; looked at without it."""
        self._lock = threading.Lock()
        self._over = False
        self._member: Member | None = None
        self._orders: list[Callable[[Member], object]] = []
        self._wake = threading.Event()
        self._complaints: dict[str, float] = {}
        self._silent = ""
        self._predecessors: set[threading.Thread] = set()
        self.thread: threading.Thread | None = None

    # -- what others ask -------------------------------------------------------------------------

    def read(self, attachments: Mapping[Attachment, Mapping[str, Sequence[int]]]) -> bool:
        """Read these topics for these, too; False when it has ended, or is about to."""
        readers = [Reader(one, topics, self._wake.set) for one, topics in attachments.items()]
        with self._lock:
            if self._over or self.request >= Request.LEAVE:
                return False
            for reader in readers:
                if reader.in_hand.previous not in (None, self.thread):
                    self._predecessors.add(reader.in_hand.previous)
            self._readers += tuple(readers)
            if self.thread is None:
                self.thread = spawn(f"{self.shared.thread_name}-{self.key.group or 'copies'}", self._run)
            for reader in readers:
                reader.in_hand.previous = self.thread
        self._wake.set()
        return True

    @property
    def readers(self) -> Sequence[Reader]:
        """Whom it reads for, now."""
        return self._readers

    def reader_of(self, attachment: Attachment) -> Reader | None:
        """What reads for an attachment."""
        return next((reader for reader in self._readers if reader.attachment is attachment), None)

    def ask(self, request: Request, attachment: Attachment | None = None) -> None:
        """Have this done for one, or for all and for good; what asks for less than before is ignored."""
        if attachment is None:
            with self._lock:
                self.request = max(self.request, request)
        for reader in self._readers:
            if attachment is None or reader.attachment is attachment:
                reader.ask(request)
        self._wake.set()

    def follow(self, attachment: Attachment, topics: Mapping[str, Sequence[int]]) -> None:
        """These are the topics and partitions of a pattern, or of a broadcast copy, now."""
        reader = self.reader_of(attachment)
        if reader is not None:
            reader.topics = topics
            self._wake.set()

    def order(self, order: Callable[[Member], object]) -> None:
        """Have something done with the consumer, on its thread."""
        self._orders.append(order)
        self._wake.set()

    def reads(self, where: TopicPartition) -> bool:
        """Whether its consumer has a partition."""
        member = self._member
        return member is not None and member.reader_of(where) is not None

    def cure(self, places: Collection[TopicPartition]) -> None:
        """Have partitions that stall read anew, and nothing else disturbed."""

        def cure(member: Member) -> None:
            for where in places:
                member.cure(where)

        logger.warning("%s: nothing is fetched although there is something: %s", self.key.name, sorted(places))
        self.order(cure)

    def show(self, troubles: Mapping[TopicPartition, str]) -> None:
        """In these partitions nothing gets on, and why; in all others it does."""
        said = f": {self.errors.last}" if self.errors.last else ""
        silent = [where for where, why in troubles.items() if why is SILENT]
        self._silent = f"{silent[0][0]} [{silent[0][1]}]: {SILENT}{said}" if silent else ""
        for reader in self._readers:
            mine = [f"{topic} [{number}]: {why}" for (topic, number), why in troubles.items() if topic in reader.topics]
            reader.told("standstill", NotConnectedError(f"{'; '.join(mine)}{said}") if mine else None)

    def rebuild(self, cause: Exception) -> None:
        """Replace the consumer."""

        def fail(member: Member) -> None:
            raise BeyondHelp(str(cause))

        self.order(fail)

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or is about to."""
        return self._over

    @property
    def consumer(self) -> object:
        """The client at work; None between two."""
        member = self._member
        return None if member is None else member.consumer

    @property
    def member(self) -> Member | None:
        """What has the consumer at work; None between two."""
        return self._member

    @property
    def resting(self) -> Sequence[tuple[TopicPartition, Reader]]:
        """Partitions that are not fetched from now, and who reads them."""
        member = self._member
        places = [] if member is None else list(member.resting)
        return [(where, reader) for where in places if member and (reader := member.reader_of(where)) is not None]

    def standing(self, seconds: float) -> dict[TopicPartition, int]:
        """Where it has not moved for so many seconds although it could have: see `Standstill`."""
        member = self._member
        return {} if member is None else member.standstill.for_longer_than(seconds)

    @property
    def is_settled(self) -> bool:
        """Whether the broker has confirmed all acknowledgements."""
        member = self._member
        touched = any(reader.in_hand.touched for reader in self._readers)
        return not touched and (member is None or member.is_settled)

    def check(self, patience: float) -> None:
        """NotConnectedError when the thread is dead or hangs, or its consumer finds no way, for `patience` seconds."""
        thread, now = self.thread, time.monotonic()
        if self._over or thread is None:
            return
        if not thread.is_alive():
            raise NotConnectedError(f"the consumer thread of {self.key.name} has died")
        if now - self.beat > patience:
            raise NotConnectedError(f"the consumer thread of {self.key.name} hangs since {now - self.beat:.0f} s")
        if self._silent:
            raise NotConnectedError(self._silent)
        member = self._member
        for reader, since in [] if member is None else member.assignment.unserved():
            # Without an error the group takes its time: it waits for members that are gone, up to their time-out.
            if now - since > patience and self.errors.last:
                waited = f"its group could not be joined for {now - since:.0f} s"
                raise NotConnectedError(f"{reader.attachment.topic}: {waited}: {self.errors.last}")

    def wait_ended(self, timeout: float) -> tuple[str, ...]:
        """Wait for the thread; its name if it is not out after `timeout` seconds."""
        return () if self.thread is None else join_all([self.thread], timeout)

    # -- the thread ------------------------------------------------------------------------------

    def note_beat(self) -> None:
        """It is alive."""
        self.beat = time.monotonic()

    def take_orders(self, member: Member) -> None:
        """Do what others have asked for."""
        while self._orders:
            self._orders.pop(0)(member)

    def dismiss(self, reader: Reader, error: Exception | None, *, lasting: bool = False) -> None:
        """It reads no more for this one: it has left, or the broker refuses it. lasting: see `Shared`."""
        with self._lock:
            if reader not in self._readers:
                return
            self._readers = tuple(one for one in self._readers if one is not reader)
        if error is not None:
            self.shared.on_refused(reader.attachment, error, lasting)

    def complain(self, error: Exception) -> None:
        """Report trouble, the same one not too often."""
        text, now = str(error), time.monotonic()
        if now - self._complaints.get(text, -COMPLAIN_EVERY) >= COMPLAIN_EVERY:
            self._complaints[text] = now
            logger.warning("%s: %s", self.key.name, text)
            self.shared.on_error(error)

    def pause(self, seconds: float) -> None:
        """Sleep until something is asked, or up to so many seconds."""
        self._wake.wait(seconds)
        self._wake.clear()
        self.note_beat()

    def _run(self) -> None:
        for predecessor in self._predecessors:
            self._await(predecessor)
        self._predecessors.clear()
        pause = FIRST_PAUSE
        while not self._is_over():
            began = time.monotonic()
            if self._one_member():
                continue
            self.rebuilds += 1
            if time.monotonic() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            deadline = Deadline(pause)
            while not deadline.over and self.request < Request.LEAVE:
                self.pause(min(0.5, deadline.remaining()))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _is_over(self) -> bool:
        """Whether nobody is left to read for; then nobody may come any more."""
        with self._lock:
            self._readers = tuple(reader for reader in self._readers if not reader.is_done)
            self._over = self.request is Request.END or not self._readers
            return self._over

    def _await(self, predecessor: threading.Thread) -> None:
        deadline = Deadline(LEAVE)
        while predecessor.is_alive() and not deadline.over and self.request is not Request.END:
            predecessor.join(0.05)
            self.note_beat()

    def _one_member(self) -> bool:
        """One consumer from birth to end; False when another one has to follow."""
        member: Member | None = None
        try:
            self._member = member = Member(self)
            member.run()
        except ProtocolRefused as error:
            logger.info("%s: %s: the classic group protocol is used", self.key.name, error)
            self.shared.protocol.refuse()
        except EventBusError as error:
            self._failed(member, _without_frames(error))
        except Exception as error:
            logger.exception("%s: the consumer failed in an unexpected way", self.key.name)
            self.complain(_without_frames(error))
        else:
            return True
        finally:
            self._member = None
            if member is not None:
                self._retire(member)
        return False

    def _failed(self, member: Member | None, error: Exception) -> None:
        """A consumer has failed, and another follows. Of one that its group never had it is shown: it may stay so."""
        if member is None or member.assignment.is_confirmed or self.key.group is None:
            self.complain(error)
            return
        logger.warning("%s: %s", self.key.name, error)
        readers = self._readers
        self.shared.on_served([reader.attachment for reader in readers], SubscriptionState.PENDING)
        for reader in readers:
            reader.told(JOINING, error)
            reader.show_again()

    def _retire(self, member: Member) -> None:
        """End a consumer; where another one follows, on a thread of its own that is not waited for long."""
        member.stop_reading()
        if self.request >= Request.LEAVE or not self._readers:
            member.end()
            return
        reaper = spawn(f"{threading.current_thread().name}-closing", member.end)
        del member
        self._await(reaper)


def _without_frames(error: Exception) -> Exception:
    """The frames refer to the consumer, which ends only when it is forgotten: errors are kept for long."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
