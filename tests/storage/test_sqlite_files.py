import sqlite3
from contextlib import closing

import pytest

from rust_optuna.storage import sqlite_files


def write(path, value):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS t (v)")
        connection.execute("INSERT INTO t VALUES (?)", (value,))
        connection.commit()


def values(connection):
    return [row[0] for row in connection.execute("SELECT v FROM t ORDER BY v")]


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "a folder" / "data base.db"
    sqlite_files.make(made)
    write(made, 1)
    return made


def test_a_copy_leaves_nothing_and_shows_what_it_was_made_of(path):
    with closing(sqlite_files.copy(path)) as copied:
        assert values(copied) == [1]
        assert copied.state == sqlite_files.state(path)
        write(path, 2)
        assert copied.state != sqlite_files.state(path)
        assert values(copied) == [1]
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("stays", [False, True])
def test_a_writer_that_starts_while_the_file_is_read_is_noticed(path, stays):
    writers, calls = [], []

    def meanwhile():
        calls.append(1)
        if len(calls) > 1:
            return
        if stays:  # its log is beside the file, which is as it was
            writer = sqlite3.connect(path)
            writer.execute("INSERT INTO t VALUES (2)")
            writer.commit()
            writers.append(writer)
        else:  # it has come and gone, and its log is in the file
            write(path, 2)

    with closing(sqlite_files.copy(path, meanwhile=meanwhile)) as copied:
        assert values(copied) == [1, 2]
    assert len(calls) == 2
    for writer in writers:
        writer.close()


def test_what_is_no_database_is_not_read_again_and_again(tmp_path):
    path = tmp_path / "x.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        sqlite_files.copy(path)


def test_who_may_write_reads_without_writing_and_tidies_up(path):
    with closing(sqlite_files.read(path)) as connection:
        assert values(connection) == [1]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("INSERT INTO t VALUES (2)")
    assert [each.name for each in path.parent.iterdir()] == [path.name]
