"""What one bus consists of in one process; a forked child has another in its place."""

from __future__ import annotations

import _thread
from collections.abc import Iterator

from . import greenlets, log
from .backends import backend_for
from .config import EventBusConfig, names_of
from .consuming.consumers import Consumers
from .errors import EventBusError
from .gate import Entry
from .middleware import Middleware
from .publishing.chained import ChainedPublisher
from .publishing.inbox import Inbox
from .publishing.pending import Pending
from .publishing.publisher import Publisher
from .recovery.callbacks import Callbacks
from .recovery.lifecycle import Lifecycle

logger = log.get(__name__)

Quick = tuple[Inbox, Iterator[int], Pending]
"""What `publish_nowait` needs where a message is plain and there is room: of one bus in one process."""


class Wiring:
    """The parts of a bus, wired: made without I/O, without a thread, and without a lock of another `Wiring`.

    before: the parent's, in a forked child. Its callbacks and middleware go on in this one, and those of its
    subscriptions that are for children, too.
    """

    def __init__(
        self,
        config: EventBusConfig,
        middleware: Middleware,
        begins: Entry = Entry.UNUSED,
        before: Wiring | None = None,
    ) -> None:
        self._config = config
        self._middleware = middleware
        self.backend = backend = backend_for(config.backend)
        features = backend.features
        self.callbacks: Callbacks
        self.callbacks = callbacks = Callbacks(config.name, None if before is None else before.callbacks)
        self.publisher = publisher = Publisher(
            config.name,
            config.max_in_flight,
            config.max_in_flight_bytes,
            callbacks.report,
            lambda: self.life.monitor.suspect(),  # noqa: PLW0108 - it is made later
            owner=callbacks,
            tombstones=features.tombstones,
            names=names_of(config.backend),
            places=features.places,
        )
        self.verbs: Publisher | ChainedPublisher = publisher
        """What users publish with."""
        pending = publisher.pending
        self.quick: Quick = (pending.inbox, pending.numbers, pending)
        self.consumers = self._make_consumers()
        self.life: Lifecycle = Lifecycle(config, backend, self.consumers, publisher, callbacks, begins)
        if middleware.links.publish:
            self.chain()

    def _make_consumers(self) -> Consumers:
        backend = self.backend
        return Consumers(
            self._config,
            backend.features,
            backend.new_in_hand,
            self.callbacks.report,
            self.publisher.publish_copy,
            self._middleware,
        )

    def chain(self) -> None:
        """From now on middleware is around each publish; it stays so."""
        if self.verbs is self.publisher:
            _, numbers, pending = self.quick
            self.quick = (Inbox(), numbers, pending)  # nobody's, and never with room: so the quick path is not taken
            self.verbs = ChainedPublisher(self.publisher, self._middleware)

    def in_child(self) -> Wiring:
        """What a forked child has in the place of this, which is its parent's; this very one if it is not to reopen.

        Takes no lock, and starts nothing: `resume` does.
        """
        entry = self.life.gate.entry
        self.life.forked()
        if entry is Entry.USED:
            entry = Entry.ASLEEP
        # The parent's threads are not here, but its greenlets would be, at work beside ours.
        final = self._config.on_fork == "raise" or greenlets.are_threads()
        if entry is Entry.FORKED or (entry is Entry.ASLEEP and final):
            return self
        heir = Wiring(self._config, self._middleware, entry, before=self)
        if entry is not Entry.CLOSED:
            heir.consumers.inherit(self.consumers, lambda sub: entry is Entry.UNUSED or sub.in_children)
        return heir

    def resume(self) -> None:
        """In a forked child that has subscriptions of a bus that was open: open it, on a thread of its own."""
        if self.life.gate.entry is Entry.ASLEEP and len(self.consumers.subscriptions):
            _thread.start_new_thread(self._wake, ())

    def _wake(self) -> None:
        try:
            self.life.wake(0.0)
        except EventBusError as error:
            logger.warning("%s: not opened in a forked child: %s", self._config.name, error)
