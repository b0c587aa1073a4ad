"""A private PostgreSQL that asks for a password, run by an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

ROLE, NAME = "rust", "rust"


@contextmanager
def postgresql_with_password(password: str) -> Iterator[int]:
    """Yield the port of a server on 127.0.0.1 with one role and one database, and end it."""
    places = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    path = os.pathsep.join([*places, os.environ.get("PATH", os.defpath)])
    initdb, pg_ctl = (shutil.which(name, path=path) for name in ("initdb", "pg_ctl"))
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL's initdb and pg_ctl are not on this machine")
    with TemporaryDirectory() as name:
        folder, user = Path(name), _user()
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

        data, port = folder / "data", _free_port()
        options = ["--auth=scram-sha-256", f"--username={ROLE}", f"--pwfile={folder / 'password'}", "--no-sync"]
        run(initdb, "-D", data, *options)
        settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        run(pg_ctl, "-D", data, "-w", "-o", settings, "start")
        try:
            _create_database(port, password)
            yield port
        finally:
            run(pg_ctl, "-D", data, "-m", "immediate", "stop")


def _user() -> dict[str, Any]:
    """Return whom the server runs as: it refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    names = {each.pw_name: each for each in pwd.getpwall()}
    user = names.get("postgres") or names["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _create_database(port: int, password: str) -> None:
    import psycopg

    with psycopg.connect(
        host="127.0.0.1", port=port, user=ROLE, password=password, dbname="postgres", autocommit=True
    ) as connection:
        connection.execute(f"CREATE DATABASE {NAME}")
