"""All consumers of a session: which subscriptions share one, and how they begin and end."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping, Sequence
from itertools import count

from ....config_kafka import KafkaConfig
from ....consuming.attachment import Attachment
from ....consuming.subscriptions import SubscriptionState
from ....errors import SessionRetired, SubscribeError
from ....threads import join_all
from ...base import SessionContext
from ..catalogue import Catalogue
from ..clients.group_protocol import GroupProtocol
from ..clients.options import ClientOptions
from ..names import group_id, is_pattern
from .consumer_thread import ConsumerThread
from .preparing import Preparing
from .reader import Reader
from .requests import Request
from .shared import ConsumerKey, Shared
from .survey import Survey

RESERVE = 4
"""Of the bytes that a subscription may have in hand: a part so large may wait for its lanes as well."""

_Topics = Mapping[str, Sequence[int]]


class Consumers:
    """The consumers of one session. All methods are thread-safe; `survey` says itself which thread it is for."""

    def __init__(
        self,
        catalogue: Catalogue,
        preparing: Preparing,
        options: ClientOptions,
        config: KafkaConfig,
        context: SessionContext,
        protocol: GroupProtocol,
    ) -> None:
        self._context = context
        self._preparing = preparing
        self._patience = config.stall_timeout
        self._lock = threading.Lock()
        self._reading: dict[Attachment, ConsumerThread] = {}
        self._threads: list[ConsumerThread] = []
        self._closed = False
        self._shared = Shared(
            options=options,
            thread_name=f"eventbus.{context.bus}.kafka",
            instance=f"eventbus-{context.bus}-{secrets.token_hex(8)}",
            protocol=protocol,
            reserve_bytes=context.prefetch_bytes // RESERVE,
            commit_interval=config.commit_interval,
            on_error=context.on_error,
            on_served=context.on_served,
            on_refused=self._refuse,
        )
        self.survey = Survey(catalogue, lambda: self.threads, config.stall_timeout)

    @property
    def threads(self) -> list[ConsumerThread]:
        """All of them, those that are ending included."""
        return list(self._threads)

    def reader_of(self, attachment: Attachment) -> Reader | None:
        """What reads for an attachment; None if it is unknown, or over."""
        thread = self._reading.get(attachment)
        return None if thread is None else thread.reader_of(attachment)

    @property
    def topic(self) -> str | None:
        """One that is read."""
        found = (topic for thread in self.threads for reader in thread.readers for topic in reader.topics)
        return next(found, None)

    def check(self) -> None:
        """NotConnectedError when one of them is dead, or hangs, or finds no way."""
        for thread in self.threads:
            thread.check(self._patience)

    def attach(self, attachments: Sequence[Attachment]) -> None:
        """Have each read by its consumer, which delivers once it has joined the group. SessionRetired: too late."""
        prepared = self._preparing.prepared
        with self._lock:
            if self._closed:
                raise SessionRetired("the session has ended")
            for one in attachments:
                if one not in prepared:
                    raise SubscribeError(f"{one!r} was not prepared")
            together: dict[ConsumerKey, dict[Attachment, _Topics]] = {}
            for one in attachments:
                together.setdefault(self._key_of(one, together), {})[one] = prepared[one]
            for key, ones in together.items():
                self._reading |= dict.fromkeys(ones, self._read(key, ones))
            for one in attachments:
                del prepared[one]
        self._context.on_served(attachments, SubscriptionState.PENDING)

    def detach(self, attachment: Attachment) -> None:
        """Read no more for it, and leave what it reads once nothing of it is in hand; returns at once."""
        with self._lock:
            self._reading = {one: by for one, by in self._reading.items() if by.reader_of(one) is not None}
            thread = self._reading.get(attachment)
        if thread is not None:
            thread.ask(Request.LEAVE, attachment)

    def stop_fetching(self) -> None:
        """Fetch no more; what is done is acknowledged."""
        for thread in self.threads:
            thread.ask(Request.ACKNOWLEDGE)

    @property
    def is_settled(self) -> bool:
        """Whether the broker has confirmed all that is done."""
        return all(thread.is_settled for thread in self.threads)

    def end(self) -> None:
        """Leave the groups; returns at once."""
        with self._lock:
            self._closed = True
        for thread in self.threads:
            thread.ask(Request.END)

    def wait_ended(self, timeout: float) -> tuple[str, ...]:
        """Wait for the threads; names those that are not out after `timeout` seconds."""
        return join_all([one.thread for one in self.threads if one.thread is not None], timeout)

    # -- inside ----------------------------------------------------------------------------------

    def _key_of(
        self, attachment: Attachment, together: Mapping[ConsumerKey, Mapping[Attachment, object]]
    ) -> ConsumerKey:
        """Which consumer reads it. Under the lock."""
        topic, group = attachment.topic, attachment.group
        if is_pattern(topic):
            number = attachment.number if group is None else 0
            return ConsumerKey(None if group is None else group_id(group, topic), topic, number)
        if group is not None:
            return ConsumerKey(group)
        taken = {one.key for one in self._threads if any(reader.attachment.topic == topic for reader in one.readers)}
        taken |= {key for key, ones in together.items() if any(one.topic == topic for one in ones)}
        return next(key for number in count() if (key := ConsumerKey(None, "", number)) not in taken)

    def _read(self, key: ConsumerKey, ones: Mapping[Attachment, _Topics]) -> ConsumerThread:
        """Have a consumer read for these, the one that there is or a new one. Under the lock."""
        for thread in self._threads:
            if thread.key == key and thread.read(ones):
                return thread
        thread = ConsumerThread(key, self._shared)
        thread.read(ones)
        self._threads = [*[one for one in self._threads if not one.is_over], thread]
        return thread

    def _refuse(self, attachment: Attachment, error: Exception, lasting: bool) -> None:
        if lasting:
            self._preparing.note_refused(attachment, error)
        self._context.on_refused(attachment, error)
