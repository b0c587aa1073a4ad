"""The proxy does to connections what it says, against an echo server."""

from __future__ import annotations

import socket
import socketserver
import threading
from contextlib import suppress

import pytest

from tests.chaos.proxy import Proxy


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        with suppress(ConnectionError):
            while data := self.request.recv(100):
                self.server.heard.append(data)
                self.request.sendall(data)


@pytest.fixture
def echo():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        server.heard = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def proxy(echo):
    made = Proxy(echo.server_address[1])
    yield made
    made.close()


def dial(proxy):
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def ask(connection, what=b"one"):
    connection.sendall(what)
    return connection.recv(100)


def test_it_forwards_both_ways(proxy):
    with dial(proxy) as one, dial(proxy) as two:
        assert (ask(one, b"one"), ask(two, b"two")) == (b"one", b"two")


def test_a_cut_resets_connections_and_new_ones_are_taken(proxy):
    with dial(proxy) as one:
        assert ask(one) == b"one"
        proxy.cut()
        with pytest.raises(ConnectionError):
            ask(one)
    with dial(proxy) as one:
        assert ask(one) == b"one"


def test_it_refuses_on_the_same_port_until_it_is_restored(proxy):
    port = proxy.port
    with dial(proxy) as one:
        assert ask(one) == b"one"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            dial(proxy)
        assert ask(one) == b"one"
    proxy.restore()
    assert proxy.port == port
    with dial(proxy) as one:
        assert ask(one) == b"one"


def test_what_is_stalled_arrives_later(proxy, echo):
    with dial(proxy) as one:
        assert ask(one) == b"one"
        proxy.stall()
        one.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ask(one, b"two")
        assert echo.heard == [b"one"]
        one.settimeout(5)
        proxy.restore()
        assert one.recv(100) == b"two"


def test_a_muted_answer_is_lost_though_the_question_was_heard(proxy, echo):
    with dial(proxy) as one:
        assert ask(one) == b"one"
        proxy.mute()
        one.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ask(one, b"two")
        assert echo.heard == [b"one", b"two"]
        proxy.restore()
        one.settimeout(5)
        assert ask(one, b"three") == b"three"
