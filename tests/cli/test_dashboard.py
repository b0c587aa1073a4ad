import re
import signal
import socket
import urllib.request

import pytest

from tests.studies import make_study, random_document, start_command


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_dashboard_answers_at_its_address_until_sigterm(sqlite, home, host):
    make_study(sqlite, home, random_document(2))
    url = sqlite.url.render_as_string()
    running = start_command(home, url, "dashboard", "--port", "0", "--host", host, PYTHONUNBUFFERED="1")
    try:
        line = running.stdout.readline()
        (port,) = re.findall(rf"http://{re.escape(host)}:(\d+)/dashboard", line)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=60) as answer:
            assert b"regime-1" in answer.read()
        with socket.create_connection(("127.0.0.1", int(port))):  # somebody who asks nothing
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/dashboard", timeout=60) as answer:
                assert answer.status == 200
            running.send_signal(signal.SIGTERM)
            output, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    assert (running.returncode, "Stopped." in output) == (0, True)


def test_an_address_that_is_taken_is_named(sqlite, home):
    make_study(sqlite, home, random_document(2))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        running = start_command(home, sqlite.url.render_as_string(), "dashboard", "--port", port)
        output, _ = running.communicate(timeout=120)
    assert (running.returncode, f"Port {port} of 127.0.0.1 cannot be used" in output) == (1, True)
