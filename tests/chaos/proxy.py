"""A TCP proxy between the workers and their database, which refuses, cuts, stalls and swallows."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress


class Proxy:
    """Forwards 127.0.0.1:``port`` to another port of this machine, in a thread of its own.

    Every method may be called from any thread, and returns once the change is made.

    Args:
        target: the port to forward to.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._mute = False
        self._thread.start()
        self._flowing = asyncio.Event()
        self.restore()

    def restore(self) -> None:
        """Forward everything, and listen again."""
        self._call(self._restore)

    def refuse(self) -> None:
        """Refuse new connections; those that are open stay."""
        self._call(self._refuse)

    def cut(self) -> None:
        """Reset every open connection."""
        self._call(self._cut)

    def stall(self) -> None:
        """Forward nothing any more, and let all wait: connections stay open, new ones are taken."""
        self._call(self._stall)

    def mute(self) -> None:
        """Swallow what the database answers: it does what it is asked, and nobody hears of it."""
        self._call(self._silence)

    def close(self) -> None:
        """End the proxy with all its connections."""
        self._call(self._refuse)
        self._call(self._cut)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, function: Callable[[], Awaitable[None]]) -> None:
        async def call() -> None:
            await function()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result(10)

    async def _restore(self) -> None:
        self._mute = False
        self._flowing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _cut(self) -> None:
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stall(self) -> None:
        self._flowing.clear()

    async def _silence(self) -> None:
        self._mute = True

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client, in the task that asyncio made for it."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        writers = [writer]
        try:
            answers, questions = await asyncio.open_connection("127.0.0.1", self.target)
            writers.append(questions)
            both = [self._copy(reader, questions, False), self._copy(answers, writer, True)]
            await asyncio.wait([asyncio.ensure_future(one) for one in both], return_when=asyncio.FIRST_COMPLETED)
        except (OSError, asyncio.CancelledError):
            pass  # no database there, or cut: either way the client is reset
        finally:
            for one in writers:
                _reset(one)
            self._connections.discard(task)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._flowing.wait()
                if not (answers and self._mute):
                    writer.write(data)
                    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection as a machine does that has lost it: at once, with a reset."""
    plain = writer.get_extra_info("socket")
    with suppress(OSError):
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
