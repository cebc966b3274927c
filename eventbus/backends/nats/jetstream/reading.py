"""What subscriptions read from: streams, and a consumer on each."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

from .... import log
from ....consuming.attachment import Attachment
from ....errors import SubscribeError
from ....threads import Deadline
from ..core.feeds import cannot_subscribe
from ..link.requests import Forbidden, NoResponders
from .api import STREAM_NOT_FOUND, JetStreamApi
from .asking import ApiError, Asking, K
from .durables import Durables, Target
from .in_hand import in_hand_of
from .streams import Stream, StreamRefused, Streams, is_wild

logger = log.get(__name__)

GRACE = 0.5
"""Seconds that those which are ready wait for the others; or twice what they took themselves."""
NOT_AGAIN = 60.0
"""Seconds for which the server is not bothered with what it forbids, where nobody waits for it."""
T = TypeVar("T")
REFUSALS = (StreamRefused, ApiError, Forbidden, NoResponders)
Report = Callable[[Attachment, Exception], object]
"""`report(attachment, error)`: one of the streams that a pattern covers cannot be read."""


class Reading:
    """Finds what subscriptions read from, and has it made where that is wanted."""

    def __init__(self, api: JetStreamApi, streams: Streams, durables: Durables, report: Report) -> None:
        self._api = api
        self._streams = streams
        self._durables = durables
        self._report = report
        self._forbidden: dict[Hashable, float] = {}
        """What may not be asked, and until when it is not."""

    def targets(
        self, attachments: Sequence[Attachment], deadline: Deadline
    ) -> dict[Attachment, list[Target] | Exception]:
        """What each of these reads from: SubscribeError where it is refused, NotConnectedError where not in time.

        Not for those that are ready: one that is long in coming holds up the others for half a second, or twice what
        they took.
        """
        return self._api.run_all({one: self._resolve(one) for one in attachments}, deadline, GRACE)

    def streams_of(self, attachments: Sequence[Attachment], deadline: Deadline) -> dict[Attachment, set[str]]:
        """The names of the streams that patterns cover now; without those for which that was not answered."""
        found = self._answers({one: self._streams.find(one.topic) for one in attachments}, deadline)
        return {one: set(names) for one, names in found.items()}

    def looks(
        self, targets: Sequence[tuple[Attachment, Target]], deadline: Deadline
    ) -> dict[tuple[Attachment, Target], Target | str]:
        """Each consumer as it is now, or why it is of no use any more; where groups stand is noted.

        Without what was not answered.
        """
        return self._answers({each: self._look(*each) for each in targets}, deadline)

    def _look(self, attachment: Attachment, target: Target) -> Asking[Target | str]:
        try:
            now = yield from self._durables.look(attachment, target)
        except StreamRefused as error:
            return str(error)
        return now

    def _answers(self, questions: Mapping[K, Asking[T]], deadline: Deadline) -> dict[K, T]:
        """What was answered, of questions that are asked again and again; what is forbidden is not, for a while."""
        now = time.monotonic()
        self._forbidden = {key: until for key, until in self._forbidden.items() if until > now}
        open = {key: question for key, question in questions.items() if key not in self._forbidden}
        found = self._api.run_all(open, deadline)
        self._forbidden.update((key, now + NOT_AGAIN) for key, one in found.items() if isinstance(one, Forbidden))
        return {key: answer for key, answer in found.items() if not isinstance(answer, Exception)}

    def _resolve(self, attachment: Attachment) -> Asking[list[Target]]:
        try:
            try:
                targets = yield from self._targets_of(attachment)
            except ApiError as error:
                if error.number != STREAM_NOT_FOUND:
                    raise
                targets = yield from self._targets_of(attachment)  # it was deleted in between
        except REFUSALS as error:
            raise cannot_subscribe(attachment, error) from error
        in_hand_of(attachment).has_begun = True
        return targets

    def _targets_of(self, attachment: Attachment) -> Asking[list[Target]]:
        """A stream of a pattern that cannot be read is reported and left out, unless it is the only one."""
        topic = attachment.topic
        names = yield from self._streams.ensure(topic)
        targets: list[Target] = []
        refusal: Exception | None = None
        left_out: set[str] = set()
        for name in names:
            stream = None
            try:
                stream = yield from self._streams.look_at(name, topic)
                if stream.is_public or not topic.startswith(("*", ">")):
                    targets.append((yield from self._durables.ensure(attachment, stream)))
            except REFUSALS as error:
                if len(names) == 1 or not is_wild(topic):
                    raise
                refusal = error
                left_out.add(name)
                if stream is not None:
                    note_beginning(attachment, stream)
                self._report(attachment, SubscribeError(f"{topic!r} is not read from stream {name!r}: {error}"))
        if refusal is not None and not targets:
            raise refusal
        in_hand_of(attachment).left_out = left_out
        return targets


def note_beginning(attachment: Attachment, stream: Stream) -> None:
    """A subscription that begins with what is new begins there in a stream, too, that it may read later only."""
    in_hand = in_hand_of(attachment)
    if not in_hand.has_begun and (attachment.group is None or attachment.start == "latest"):
        in_hand.positions.setdefault(stream.incarnation, stream.last)
