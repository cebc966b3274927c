"""A TCP proxy that fails on request: what networks do to the connections of a client."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from eventbus.testing._links import Link, Pipe
from eventbus.testing.ports import free_port, release_port, require_loopback

_BACKLOG = 128
_COMMAND_TIMEOUT = 10.0
_READ = selectors.EVENT_READ
_WRITE = selectors.EVENT_WRITE


class TcpProxy:
    """Forwards TCP connections to a target, and stops doing so in every way a network can.

    All methods are for any thread and take effect before they return. One daemon thread,
    ``eventbus.testing.proxy``, serves all connections; :meth:`stop` ends it and closes them.
    The port stays the same for as long as it runs, also while it refuses.

    >>> from eventbus.testing import TcpProxy
    >>> with TcpProxy("127.0.0.1", 4222) as proxy:        # doctest: +SKIP
    ...     client.connect(*proxy.address)
    ...     proxy.black_hole()                            # connected, and silent
    ...     proxy.accept()                                # what was held back arrives now
    """

    def __init__(self, target_host: str, target_port: int, *, host: str = "127.0.0.1", port: int = 0) -> None:
        """Describe the proxy. ``port`` 0 picks a free one; it is known before :meth:`start`.

        Raises:
            ValueError: ``host`` is not loopback.
            OSError: the target's name is unknown.
        """
        require_loopback(host)
        found = socket.getaddrinfo(target_host, target_port, type=socket.SOCK_STREAM)
        self._target_family, self._target = found[0][0], found[0][4]
        self._host = host
        self._port = port or free_port(host)
        self._picked = not port
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._lock = threading.Lock()
        self._commands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._thread: threading.Thread | None = None
        self._accepted = 0
        self._links: set[Link] = set()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that clients connect to."""
        return self._host, self._port

    @property
    def port(self) -> int:
        """The port that clients connect to."""
        return self._port

    @property
    def connections(self) -> int:
        """How many connections are open now, mute ones included."""
        return len(self._links)

    @property
    def accepted(self) -> int:
        """How many connections were accepted since the proxy was made."""
        return self._accepted

    def start(self) -> TcpProxy:
        """Listen and forward. Fine if it runs already.

        Raises:
            OSError: the port is taken.
        """
        with self._lock:
            if self._thread is not None:
                return self
            self._to_server_open = self._to_client_open = True
            self._delay = 0.0
            self._stopping = self._closed = False
            self._listener: socket.socket | None = self._listen()
            self._waker, self._woken = socket.socketpair()
            self._woken.setblocking(False)
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._woken, _READ, None)
            self._selector.register(self._listener, _READ, None)
            self._thread = threading.Thread(target=self._run, name="eventbus.testing.proxy", daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """Close every connection (RST) and the port; returns when the thread is gone. Idempotent.

        Raises:
            RuntimeError: the thread did not end.
        """
        with self._lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            self._stopping = True
            with contextlib.suppress(OSError):  # the thread has failed and closed it
                self._waker.send(b"x")
        thread.join(_COMMAND_TIMEOUT)
        if thread.is_alive():
            raise RuntimeError("the thread of a TcpProxy did not end")
        if self._picked:
            release_port(self._port)

    def accept(self) -> None:
        """Back to normal: listens, forwards both ways, no delay. Bytes held back move on.

        Connections that :meth:`half_open` made mute stay so.

        Raises:
            OSError: somebody else has taken the port meanwhile.
        """
        self._command(self._do_accept)

    def refuse(self, cut: bool = True) -> None:
        """Close the port: new connections are refused. ``cut`` resets the existing ones too."""

        def do() -> None:
            if self._listener is not None:
                self._selector.unregister(self._listener)
                self._listener.close()
                self._listener = None
            if cut:
                self._cut()

        self._command(do)

    def cut(self) -> None:
        """Reset (RST) every existing connection, on both sides; new ones are served."""
        self._command(self._cut)

    def black_hole(self, to_server: bool = True, to_client: bool = True) -> None:
        """Forward nothing in the given directions, not even an end; new connections are accepted.

        Bytes stay unread, so a sender that goes on fills its buffers, as with lost packets. A
        direction that is not given is open.
        """

        def do() -> None:
            self._to_server_open, self._to_client_open = not to_server, not to_client

        self._command(do)

    def delay(self, seconds: float) -> None:
        """Forward what is read from now on ``seconds`` later, each way; 0 ends it.

        Raises:
            ValueError: a negative time.
        """
        if seconds < 0:
            raise ValueError(f"a delay of {seconds} s")

        def do() -> None:
            self._delay = seconds

        self._command(do)

    def half_open(self) -> None:
        """Make the existing connections mute for ever, whatever comes; new ones are served.

        What a client sees whose peer lost power, or whose NAT entry expired.
        """

        def do() -> None:
            for link in self._links:
                link.deaf = True

        self._command(do)

    def __enter__(self) -> TcpProxy:
        """Start it."""
        return self.start()

    def __exit__(self, *raised: object) -> None:
        """Stop it."""
        self.stop()

    def _listen(self) -> socket.socket:
        listener = socket.socket(self._family)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(self.address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
        return listener

    def _command(self, action: Callable[[], None]) -> None:
        done: Future[None] = Future()
        with self._lock:
            if self._thread is None or self._closed:
                raise RuntimeError("the TcpProxy is not running")
            self._commands.append((action, done))
            self._waker.send(b"x")
        done.result(_COMMAND_TIMEOUT)

    # Everything below runs on the proxy's thread.

    def _run(self) -> None:
        try:
            while not self._stopping:
                due = self._next_due()
                timeout = None if due is None else max(0.0, due - time.monotonic())
                for key, _ in self._selector.select(timeout):
                    self._serve(key)
                if due is not None and time.monotonic() >= due:
                    self._pump_all()
        finally:
            self._close_all()

    def _serve(self, key: selectors.SelectorKey) -> None:
        if key.fileobj is self._woken:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
            self._obey()
        elif isinstance(key.data, Link):
            if key.data in self._links:
                self._serve_link(key.data, connected=key.fileobj is key.data.server)
        elif key.fileobj is self._listener:
            self._welcome()

    def _obey(self) -> None:
        while self._commands:
            action, done = self._commands.popleft()
            try:
                action()
            except Exception as exc:
                done.set_exception(exc)
            else:
                self._pump_all()
                done.set_result(None)

    def _do_accept(self) -> None:
        if self._listener is None:
            self._listener = self._listen()
            self._selector.register(self._listener, _READ, None)
        self._to_server_open = self._to_client_open = True
        self._delay = 0.0

    def _cut(self) -> None:
        for link in list(self._links):
            self._drop(link, reset=True)

    def _welcome(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        server = socket.socket(self._target_family, socket.SOCK_STREAM)
        link = Link(client, server)
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._links.add(link)
        self._accepted += 1
        try:
            with contextlib.suppress(BlockingIOError):
                server.connect(self._target)
        except OSError:
            self._drop(link, reset=True)
        else:
            self._arm(link)

    def _serve_link(self, link: Link, *, connected: bool) -> None:
        if link.connecting:
            if not connected:
                return
            if link.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._drop(link, reset=True)
                return
            link.connecting = False
        self._pump(link)

    def _pump_all(self) -> None:
        for link in list(self._links):
            self._pump(link)

    def _pump(self, link: Link) -> None:
        now = time.monotonic()
        try:
            if not link.connecting:
                for pipe in self._open_pipes(link):
                    pipe.fill(now + self._delay)
                    pipe.drain(now)
        except OSError:
            self._drop(link, reset=True)
            return
        if link.finished:
            self._drop(link, reset=False)
        else:
            self._arm(link)

    def _open_pipes(self, link: Link) -> list[Pipe]:
        if link.deaf:
            return []
        pipes = [link.to_server] if self._to_server_open else []
        return [*pipes, link.to_client] if self._to_client_open else pipes

    def _arm(self, link: Link) -> None:
        wanted = {link.client: 0, link.server: _WRITE if link.connecting else 0}
        if not link.connecting:
            link.armed_at = now = time.monotonic()
            for pipe in self._open_pipes(link):
                if pipe.hungry:
                    wanted[pipe.source] |= _READ
                due = pipe.due_at()
                if due is not None and due <= now:
                    wanted[pipe.sink] |= _WRITE
        for sock, mask in wanted.items():
            self._watch(sock, mask, link)

    def _watch(self, sock: socket.socket, mask: int, link: Link) -> None:
        key = self._selector.get_map().get(sock)
        if not mask:  # not registered at all: epoll would go on reporting a hang-up
            if key is not None:
                self._selector.unregister(sock)
        elif key is None:
            self._selector.register(sock, mask, link)
        elif key.events != mask:
            self._selector.modify(sock, mask, link)

    def _next_due(self) -> float | None:
        # What was due when its link was armed waits for its sink; what has become due since waits for us.
        pipes = ((link.armed_at, pipe) for link in self._links for pipe in self._open_pipes(link))
        return min((due for armed_at, pipe in pipes if (due := pipe.due_at() or 0.0) > armed_at), default=None)

    def _drop(self, link: Link, *, reset: bool) -> None:
        self._links.discard(link)
        for sock in (link.client, link.server):
            self._watch(sock, 0, link)
        link.close(reset=reset)

    def _close_all(self) -> None:
        self._cut()
        if self._listener is not None:
            self._listener.close()
        with self._lock:
            self._closed = True
            self._selector.close()
            self._waker.close()
            self._woken.close()
            while self._commands:
                self._commands.popleft()[1].set_exception(RuntimeError("the TcpProxy stopped"))
