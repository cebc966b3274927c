"""What a link is subscribed to, and what the server says about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count

from . import wire
from .writer import Writer

Answered = Callable[[str], object]
"""`answered(text)`, on the reader thread: "" once the server has taken the SUB, else why it is not served."""

_ABOUT_A_SUB = ("permissions violation for subscription", "maximum subscriptions exceeded", "invalid subject")
"""How errors begin that do not end the link."""


class Interest:
    """One SUB that was sent with a PING behind it. Called, it notes the PONG: the server has taken the SUB."""

    __slots__ = ("_answered", "_over", "subject")

    def __init__(self, subject: str, answered: Answered) -> None:
        self.subject = subject
        self._answered = answered
        self._over = False

    def __call__(self) -> None:
        if not self._over:
            self._answered("")

    def refused(self, text: str) -> None:
        """The server does not serve it, or not any more."""
        if not self._over:
            self._over = True
            self._answered(text)


class Interests:
    """The SUBs of one link. routes: where their messages go, by sid."""

    def __init__(self, writer: Writer) -> None:
        self.routes: dict[int, wire.Route] = {}
        self._writer = writer
        self._asking: dict[int, Interest] = {}
        self._lasting: dict[str, int] = {}
        """Those that nobody else asks for again, by subject."""
        self._next_sid = count(1).__next__

    def add(self, subject: str, route: wire.Route, queue: str = "", answered: Answered | None = None) -> int:
        """Send SUB; the messages go to the route. Returns the sid. Without `answered`: see `again`."""
        sid = self._next_sid()
        frame = wire.sub(subject, sid, queue)
        self.routes[sid] = route
        if answered is None:
            self._lasting[subject] = sid
            self._writer.write(frame)
        else:
            self._asking[sid] = interest = Interest(subject, answered)
            self._writer.write(frame + wire.PING, interest)
        return sid

    def forget(self, sids: Iterable[int]) -> None:
        """Take the routes away."""
        gone = {*sids}
        for sid in gone:
            self.routes.pop(sid, None)
            self._asking.pop(sid, None)
        for subject, sid in list(self._lasting.items()):
            if sid in gone:
                self._lasting.pop(subject, None)

    def again(self, subject: str) -> None:
        """Send SUB once more, if this is one that nobody else asks for again."""
        sid = self._lasting.get(subject)
        if sid is not None:
            self._writer.write(wire.sub(subject, sid))

    def refused(self, text: str) -> bool:
        """The server said this; whether it was about a SUB. Reader thread.

        Until a SUB's PONG has come the errors are about it: the server answers in order. Afterwards it is named, by
        its sid where it loses a permission that it had.
        """
        if not text.lower().startswith(_ABOUT_A_SUB):
            return False
        subject = _quoted(text)
        with self._writer.lock:
            next_pong = self._writer.pongs[0] if self._writer.pongs else None
        asking = self._asking.copy()
        sid = _quoted(text.partition("(sid ")[2])
        if sid.isdecimal():
            about = [asking[int(sid)]] if int(sid) in asking else []
        elif isinstance(next_pong, Interest) and subject in ("", next_pong.subject):
            about = [next_pong]
        else:
            about = [interest for interest in asking.values() if interest.subject == subject]
        for interest in about:
            interest.refused(text)
        return bool(about)


def refused_subject(text: str, kind: str) -> str | None:
    """The subject that a permissions violation is about; None if the text is about something else."""
    words = text.partition('"')[0].lower()
    if '"' not in text or "permissions violation" not in words or kind not in words:
        return None
    return _quoted(text)


def _quoted(text: str) -> str:
    return text.partition('"')[2].partition('"')[0]
