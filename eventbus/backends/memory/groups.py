"""Groups of the memory broker: who owns which partition, and how far each is done. Under the broker's lock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from ...consuming.attachment import Attachment
from ...consuming.lease import Lease
from ...consuming.watermark import Watermark
from .topics import Entry, Topic


class Member:
    """One attached subscription of one session."""

    def __init__(self, attachment: Attachment) -> None:
        self.attachment = attachment
        self.deliver = attachment.deliver
        self.paused = False
        self.left: dict[tuple[Progress, int], set[int]] | None = None
        """Once detached: what is still in hand, by partition; without any the member goes."""
        self.lease = Lease()
        """On all that it is given: a partition goes to somebody else only when nothing of it is in hand, or with it."""

    def let_go(self, tokens: Iterable[Token]) -> bool:
        """It is detached, and these are not in its hand any more; True when a partition went to somebody else."""
        moved, left = False, self.left or {}
        for progress, partition, offset in tokens:
            offsets = left.get((progress, partition))
            if offsets is None:
                continue
            offsets.discard(offset)
            if not offsets:
                del left[progress, partition]
                moved |= progress.hand_over(partition, self)
        return moved


class Progress:
    """One group on one topic. A partition changes hands only when nothing of it is in hand."""

    def __init__(self, topic: Topic, start: int) -> None:
        self.topic = topic
        self.marks = [Watermark(start) for _ in range(topic.partitions)]
        self.owners: list[Member | None] = [None] * topic.partitions
        self.wanted: list[Member | None] = [None] * topic.partitions
        self._again: dict[int, int] = {}

    @property
    def committed(self) -> int:
        """Everything below this offset is done."""
        return min(mark.committed for mark in self.marks)

    @property
    def lag(self) -> int:
        """How many messages are not done."""
        count_from = self.topic.count_from
        return sum(
            mark.held + max(0, count_from(partition, mark.position) - mark.ahead)
            for partition, mark in enumerate(self.marks)
        )

    def assign(self, members: list[Member], leaving: list[Member]) -> None:
        """Spread the partitions over the members, taking from nobody what is in hand."""
        for partition in range(len(self.owners)):
            wanted = members[partition % len(members)] if members else None
            self.wanted[partition] = wanted
            if self.owners[partition] not in members and self.owners[partition] not in leaving:
                self._rewind(partition)
                self.owners[partition] = wanted
            else:
                self.move(partition)

    def rewind(self, member: Member) -> None:
        """Hand out again what a member has in hand."""
        for partition, owner in enumerate(self.owners):
            if owner is member:
                self._rewind(partition)

    def _rewind(self, partition: int) -> None:
        for offset in self.marks[partition].rewind():
            self._again[offset] = self._again.get(offset, 1) + 1

    def attempt(self, offset: int) -> int:
        """Which delivery of this message to this group comes next, from 1."""
        return self._again.get(offset, 1) if self._again else 1

    def take(self, member: Member, limit: int, most_bytes: int) -> list[tuple[int, Entry]]:
        """The next entries of this member's partitions, in the order of their storing, one at least.

        So many at most, and with that many bytes of payload no more.
        """
        mine = [partition for partition, owner in enumerate(self.owners) if owner is member]
        fetching = {partition: self.marks[partition] for partition in mine if self.wanted[partition] is member}
        if not fetching:
            return []
        first = min(mark.position for mark in fetching.values())
        if first >= self.topic.end:
            return []
        taken: list[tuple[int, Entry]] = []
        size, seen = 0, self.topic.end
        for offset, entry in self.topic.entries_from(first):
            mark = fetching.get(entry[4])
            if mark is not None and offset >= mark.position and mark.hand_out(offset):
                taken.append((offset, entry))
                size += len(entry[1])
                if len(taken) >= limit or size >= most_bytes:
                    seen = offset + 1
                    break
        for mark in fetching.values():  # nothing of theirs is left below, whatever partition it was in
            mark.position = max(mark.position, seen)
        return taken

    def hand_over(self, partition: int, leaving: Member) -> bool:
        """Its owner has nothing of it in hand any more: what it did not finish is the next one's. True when it was."""
        if self.owners[partition] is not leaving:
            return False
        self._rewind(partition)
        self.owners[partition] = self.wanted[partition]
        return True

    def move(self, partition: int) -> bool:
        """Let a partition change hands if it should and nothing of it is in hand; True when it did."""
        if self.owners[partition] is self.wanted[partition] or not self.marks[partition].idle:
            return False
        self.owners[partition] = self.wanted[partition]
        return True


class Group:
    """The members of one group on one pattern, and its progress per topic."""

    def __init__(self, pattern: str, start: str | datetime, durable: bool) -> None:
        self.pattern = pattern
        self.start = start
        self.durable = durable
        self.members: list[Member] = []
        self.leaving: list[Member] = []
        """Those that take nothing more and have something in hand."""
        self.progress: dict[str, Progress] = {}

    def follow(self, topic: Topic, *, is_new: bool) -> None:
        """Take a matching topic in; one that appears later is read from its beginning."""
        if topic.name not in self.progress:
            self.progress[topic.name] = Progress(topic, self._begins(topic, is_new))
            self.progress[topic.name].assign(self.members, self.leaving)

    def _begins(self, topic: Topic, is_new: bool) -> int:
        if isinstance(self.start, datetime):
            return topic.first_since(self.start.timestamp())
        return topic.base if is_new or self.start == "earliest" else topic.end

    def join(self, member: Member) -> None:
        """A member comes in, in place of an earlier session of the same subscription."""
        for place, other in enumerate(self.members):
            if other.attachment.sub is member.attachment.sub:
                other.lease.end()
                self.members[place] = member  # with the same partitions
                break
        else:
            self.members.append(member)
        self._assign()

    def take_leave(self, member: Member) -> dict[tuple[Progress, int], set[int]]:
        """A member takes nothing more: what it has in hand, by partition, each kept until nothing of it is."""
        self.members.remove(member)
        self.leaving.append(member)
        self._assign()
        return {
            (progress, partition): set(progress.marks[partition].in_hand)
            for progress in self.progress.values()
            for partition, owner in enumerate(progress.owners)
            if owner is member and progress.marks[partition].held
        }

    def take_back(self, member: Member) -> None:
        """A member cannot handle some of what it has: all that it has not finished is given to it again."""
        member.lease.end()
        member.lease = Lease()
        for progress in self.progress.values():
            progress.rewind(member)

    def leave(self, member: Member) -> None:
        """A member goes; what it had in hand is delivered to the others."""
        member.lease.end()
        for members in (self.members, self.leaving):
            if member in members:
                members.remove(member)
                self._assign()

    @property
    def lag(self) -> int:
        """How many messages no member has finished."""
        return sum(progress.lag for progress in self.progress.values())

    def holds(self) -> Iterator[Progress]:
        """The progress that keeps messages from being dropped."""
        if self.durable or self.members:
            yield from self.progress.values()

    def _assign(self) -> None:
        for progress in self.progress.values():
            progress.assign(self.members, self.leaving)


Token = tuple[Progress, int, int]
"""What a memory delivery carries as its token: where it counts, its partition, its offset. A plain tuple: a
named one costs as much as all the rest of a delivery."""
