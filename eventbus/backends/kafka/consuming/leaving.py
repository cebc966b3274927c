"""How a consumer ends so that its group knows."""

from __future__ import annotations

from ....threads import Deadline
from ..clients.fork_safety import Consumer

_GOODBYE = 0.5
_POLL = 0.005


def close(consumer: Consumer, protocol: str) -> None:
    """Leave the group and close; on the thread that owns the consumer, with none of its commits on their way.

    A close amid a rebalance of the classic protocol tells the group nothing, and all of it waits until the session of
    this member is over: 45 s (librdkafka 2.16, measured). `unsubscribe` does tell it, when it is given the time:
    once it has, the client has no member id any more. The newer protocol needs no such help.
    """
    if protocol == "classic":
        deadline = Deadline(_GOODBYE)
        consumer.unsubscribe()
        while consumer.memberid() and not deadline.over:
            consumer.poll(_POLL)
    consumer.close()
