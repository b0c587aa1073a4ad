"""A private PostgreSQL that asks for a password, run by an unprivileged user."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.chaos.servers import binary, free_port, unprivileged

ROLE, NAME = "rust", "rust"


@contextmanager
def postgresql_with_password(password: str) -> Iterator[int]:
    """Yield the port of a server on 127.0.0.1 with one role and one database, and end it."""
    initdb, pg_ctl = binary("initdb"), binary("pg_ctl")
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL's initdb and pg_ctl are not on this machine")
    with TemporaryDirectory() as name:
        folder, user = Path(name), unprivileged("postgres")
        (folder / "password").write_text(password)
        if user:
            for each in (folder, folder / "password"):
                shutil.chown(each, user["user"], user["group"])

        def run(*arguments: str | Path) -> None:
            # The server's output is a file's: a pipe would stay open for as long as it runs.
            with (folder / "output").open("a+") as output:
                done = subprocess.run(
                    arguments, check=False, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **user
                )
                output.seek(0)
                assert done.returncode == 0, output.read()

        data, port = folder / "data", free_port()
        options = ["--auth=scram-sha-256", f"--username={ROLE}", f"--pwfile={folder / 'password'}", "--no-sync"]
        run(initdb, "-D", data, *options)
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        run(pg_ctl, "-D", data, "-w", "-o", settings, "start")
        try:
            _create_database(port, password)
            yield port
        finally:
            run(pg_ctl, "-D", data, "-m", "immediate", "stop")


def _create_database(port: int, password: str) -> None:
    import psycopg

    with psycopg.connect(
        host="127.0.0.1", port=port, user=ROLE, password=password, dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(f"CREATE DATABASE {NAME}")
