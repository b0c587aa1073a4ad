"""MariaDB databases for tests: new ones, and one that is emptied for each test."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

MARIADB = "RUST_OPTUNA_TEST_MARIADB"


@contextmanager
def new_database(characters: str = "utf8mb4") -> Iterator[str]:
    """Yield the URL of a new database of a character set, dropped in the end."""
    given = os.environ.get(MARIADB)
    if not given:
        pytest.skip(f"{MARIADB} is not set: an SQLAlchemy URL of a user who may create databases and users")
    server = sa.make_url(given).set(drivername="mysql+pymysql")
    name = f"rust_optuna_test_{uuid.uuid4().hex[:12]}"
    with _administrator(server) as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET {characters}")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        with _administrator(server) as connection:
            _disconnect_all(connection, name)
            connection.exec_driver_sql(f"DROP DATABASE {name}")


class Reused:
    """A database whose tables are brought back to what they were at first, for each test.

    Args:
        url: has tables already.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._name = sa.make_url(url).database
        with _administrator(url) as connection:
            self._statements = _statements(connection)
            self._rows = {
                name: [dict(row) for row in connection.exec_driver_sql(f"SELECT * FROM {name}").mappings()]
                for name in self._statements
            }

    def empty(self) -> None:
        """Disconnect whom an earlier test left, and undo what it did: rows, counters, columns."""
        with _administrator(self.url) as connection:
            _disconnect_all(connection, str(self._name))
            connection.exec_driver_sql("SET foreign_key_checks = 0")
            now = _statements(connection)
            for name in now:
                if now[name] != self._statements.get(name):
                    connection.exec_driver_sql(f"DROP TABLE {name}")
            for name, statement in self._statements.items():
                if now.get(name) != statement:
                    connection.exec_driver_sql(statement)
                elif _used(connection, name):
                    connection.exec_driver_sql(f"TRUNCATE {name}")
                else:
                    continue
                self._fill(connection, name)

    def _fill(self, connection: sa.Connection, name: str) -> None:
        for row in self._rows[name]:
            connection.execute(sa.table(name, *map(sa.column, row)).insert().values(row))


@contextmanager
def _administrator(url: str | sa.URL) -> Iterator[sa.Connection]:
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection


def _disconnect_all(connection: sa.Connection, name: str) -> None:
    query = sa.text("SELECT id FROM information_schema.processlist WHERE db = :name AND id <> connection_id()")
    for number in connection.execute(query, {"name": name}).scalars().all():
        try:
            connection.exec_driver_sql(f"KILL {number}")
        except sa.exc.OperationalError as error:
            if error.orig is None or error.orig.args[0] != NO_SUCH_THREAD:
                raise


NO_SUCH_THREAD = 1094


def _statements(connection: sa.Connection) -> dict[str, str]:
    """Return what makes each table, without how far its rows are numbered."""
    names = connection.exec_driver_sql("SHOW TABLES").scalars().all()
    made = {name: str(connection.exec_driver_sql(f"SHOW CREATE TABLE {name}").one()[1]) for name in names}
    return {name: re.sub(r" AUTO_INCREMENT=\d+", "", statement) for name, statement in made.items()}


def _used(connection: sa.Connection, name: str) -> bool:
    """Say whether rows are there or were."""
    counter = re.search(r" AUTO_INCREMENT=\d+", connection.exec_driver_sql(f"SHOW CREATE TABLE {name}").one()[1])
    return bool(counter) or connection.exec_driver_sql(f"SELECT 1 FROM {name} LIMIT 1").first() is not None
