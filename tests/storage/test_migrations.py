"""The ledger's tables as migrations make them."""

import json
import sqlite3

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from rust_optuna.errors import StorageError
from rust_optuna.search.ledger import Ledger
from rust_optuna.storage import migrations, tables
from rust_optuna.storage.database import Database, create_database, open_database
from rust_optuna.storage.url import parse_url
from tests.studies import Killed, make_study, points, random_document

OURS = "rust_optuna_"


def differences(database):
    """Return what differs between the tables that are there and those that the code means."""

    def ours(name, kind, *_):
        return kind != "table" or (name.startswith(OURS) and name != migrations.VERSION_TABLE)

    with database.engine.connect() as connection:
        options = {"include_name": ours, "version_table": migrations.VERSION_TABLE}
        return compare_metadata(MigrationContext.configure(connection, opts=options), tables.metadata)


def go_back_to_version_1(database):
    """Make tables of the first version, with a study that is half done, as that version left them."""
    with database.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS rust_optuna_alembic"))
        tables.metadata.drop_all(connection)
        context = MigrationContext.configure(connection)
        with migrations_of(context) as first:
            first()
        connection.execute(
            sa.text("INSERT INTO rust_optuna_schema (version, artifacts) VALUES (1, 'storage/artifacts')")
        )
        connection.execute(
            sa.text(
                "INSERT INTO rust_optuna_study"
                " (name, state, configuration, fingerprint, notes, lease_seconds, created_at)"
                " VALUES ('old', 'open', '{}', '{}', '[]', 60, 0)"
            )
        )
        row = "INSERT INTO rust_optuna_point (study_id, number, parameters, state, attempt, failures, losses, value)"
        connection.execute(sa.text(row + " SELECT id, 0, '{}', 'complete', 1, 0, 0, 0.5 FROM rust_optuna_study"))
        connection.execute(sa.text(row + " SELECT id, 1, '{}', 'waiting', 0, 0, 0, NULL FROM rust_optuna_study"))
        ended = "INSERT INTO rust_optuna_attempt (point_id, number, worker, started_at, ended_at, outcome)"
        done = " SELECT id, 1, 'ann', 0, 1, 'complete' FROM rust_optuna_point WHERE number = 0"
        connection.execute(sa.text(ended + done))


class migrations_of:  # noqa: N801 (a context manager)
    """Yields the first migration's function, with Alembic's operations bound to a connection."""

    def __init__(self, context):
        self.context = context

    def __enter__(self):
        from alembic.operations import Operations

        script = ScriptDirectory(migrations.__path__[0]).get_revision("0001")
        self.operations = Operations.context(self.context)
        self.operations.__enter__()
        return script.module.upgrade

    def __exit__(self, *exception):
        self.operations.__exit__(*exception)


def test_migrations_make_the_tables_that_the_code_means(database):
    assert differences(database) == []


def test_there_is_one_line_of_migrations_and_its_end_is_the_programs_version():
    scripts = ScriptDirectory(migrations.__path__[0])
    assert scripts.get_heads() == [f"{tables.SCHEMA_VERSION:04}"]


def test_tables_of_the_first_version_are_brought_up_to_date_and_nothing_is_lost(database):
    go_back_to_version_1(database)
    with pytest.raises(StorageError, match=r"version 1, .*rust-optuna storage upgrade"):
        open_database(database.url)
    with pytest.raises(StorageError, match="rust-optuna storage upgrade"):
        create_database(database.url, "elsewhere")
    assert database.upgrade() == 1
    assert differences(database) == []
    with open_database(database.url) as upgraded:
        assert len(upgraded.transact(lambda c: c.execute(sa.select(tables.schema.c.token)).scalar_one())) == 32
        claim = Ledger(upgraded).claim([1], "bob")
        assert claim.number == 1
        Ledger(upgraded).finish(claim, "complete", 0.25, None, None)
        values = upgraded.transact(lambda c: c.execute(sa.select(tables.point.c.value)).scalars().all())
        assert sorted(values) == [0.25, 0.5]


def test_an_upgrade_of_what_is_up_to_date_changes_nothing(database):
    before = database.transact(lambda c: c.execute(sa.select(tables.schema)).all())
    assert database.upgrade() == tables.SCHEMA_VERSION
    assert database.transact(lambda c: c.execute(sa.select(tables.schema)).all()) == before


def test_tables_of_a_later_version_are_not_touched(database):
    newer = tables.schema.update().values(version=tables.SCHEMA_VERSION + 1)
    database.transact(lambda connection: connection.execute(newer))
    with pytest.raises(StorageError, match="or a later one"):
        database.upgrade()


def test_an_upgrade_that_fails_halfway_is_finished_by_the_next(database, monkeypatch):
    """On MariaDB, which commits each change of a table at once, by going on where it stopped."""
    go_back_to_version_1(database)

    def fail(*arguments):
        raise sa.exc.OperationalError("no space", None, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr("alembic.op.create_index", fail)
    with pytest.raises(StorageError, match=r"cannot be upgraded: database or disk is full$"):
        database.upgrade()
    monkeypatch.undo()
    assert Database(database.url).version() == 1
    assert database.upgrade() == 1
    assert differences(database) == []
    text = database.transact(lambda c: c.execute(sa.select(tables.study.c.configuration)).scalar_one())
    assert json.loads(text) == {}


@pytest.mark.parametrize("last", ["trials", "rust_optuna_schema", "rust_optuna_attempt"])
def test_a_creation_killed_while_it_makes_tables_is_finished_by_the_next(database_url, home, last):
    url = parse_url(database_url, home)

    @sa.event.listens_for(sa.engine.Engine, "after_cursor_execute")
    def die(connection, cursor, statement, *_):
        if statement.split() and statement.split()[:3] == ["CREATE", "TABLE", last]:
            raise Killed

    try:
        with pytest.raises(Killed):
            create_database(url, "storage/artifacts")
    finally:
        sa.event.remove(sa.engine.Engine, "after_cursor_execute", die)
    with create_database(url, "storage/artifacts") as database:
        assert differences(database) == []
        make_study(database, home, random_document(1))
        assert Ledger(database).claim([1], "ann").number == 0


def test_studies_without_the_version_of_their_tables_are_not_cleared_away(database, home):
    study = make_study(database, home, random_document(1))
    row = dict(database.transact(lambda c: c.execute(sa.select(tables.schema)).one())._mapping)
    database.transact(lambda c: c.execute(tables.schema.delete()))
    with pytest.raises(StorageError, match="holds studies, but not the version"):
        database.create("storage/artifacts")
    database.transact(lambda c: c.execute(tables.schema.insert().values(row)))
    assert [row.state for row in points(database, study)] == ["waiting"]
