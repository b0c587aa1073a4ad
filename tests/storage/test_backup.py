import io
import shutil
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from rust_optuna.errors import NoDatabaseError, StorageError
from rust_optuna.paths import Home
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.studies import load_studies, load_study
from rust_optuna.storage import tables
from rust_optuna.storage.artifacts import open_store
from rust_optuna.storage.backup import LOCK_SECONDS, _connection, backup, restore
from rust_optuna.storage.database import Database, open_database
from rust_optuna.storage.url import parse_url
from tests.cli.test_main import invoke
from tests.conftest import BACKENDS, new_postgresql
from tests.reports import report
from tests.studies import (
    assert_each_once,
    assert_in_step,
    attempts,
    end_leases,
    make_study,
    make_worker,
    points,
    random_document,
    run_command,
    run_study,
    shown,
)

SERVED = BACKENDS[:2]


@pytest.fixture(params=SERVED)
def database(request):
    """Only what can be backed up."""
    if request.param == "postgresql" and shutil.which("pg_dump") is None:
        pytest.skip("pg_dump is not installed")
    return request.getfixturevalue(request.param)


@pytest.fixture
def elsewhere(database, tmp_path, home):
    """The URL of a database of the same kind that holds nothing."""
    if database.backend.file is not None:
        yield parse_url(f"sqlite:///{tmp_path}/elsewhere/new.db", home)
        return
    with new_postgresql() as url:
        yield parse_url(url, home)


def contents(database):
    """Return every row of every table."""
    with database.engine.connect() as connection:
        names = sorted(sa.inspect(connection).get_table_names())
        return {name: sorted(map(repr, connection.exec_driver_sql(f"SELECT * FROM {name}").all())) for name in names}


def half_done(database, home):
    """Make a study with a complete point, one that runs, and one that waits."""
    study = make_study(database, home, random_document(3))
    ledger, mirror = Ledger(database), Mirror(database, study)
    claim = ledger.claim([study.id], "ann")
    mirror.start(claim)
    ledger.finish(claim, "complete", 0.5, report(epoch=1), None)
    mirror.tell(0, "complete", 0.5, report(epoch=1).to_json())
    ledger.mark_shown(claim.point_id, 1)
    running = ledger.claim([study.id], "bob")
    mirror.start(running)
    return study, running


def test_a_backup_brings_everything_back_elsewhere_and_the_search_goes_on(database, home, elsewhere, tmp_path):
    study, _ = half_done(database, home)
    before = contents(database)
    size = backup(database.url, tmp_path / "backups" / "monday")
    assert size == (tmp_path / "backups" / "monday").stat().st_size
    assert [path.name for path in (tmp_path / "backups").iterdir()] == ["monday"]
    assert contents(database) == before
    end_leases(database)
    make_worker(database, home).run([study.name])  # what happens afterwards is not in it

    restore(elsewhere, tmp_path / "backups" / "monday")
    with open_database(elsewhere) as restored:
        assert contents(restored) == before
        assert [row.state for row in points(restored, study)] == ["complete", "running", "waiting"]
        end_leases(restored)
        assert make_worker(restored, home).run([study.name]) == 2
        assert [(row.point, row.outcome) for row in attempts(restored, study)] == [
            (0, "complete"),
            (1, "lost"),
            (1, "complete"),
            (2, "complete"),
        ]
        assert load_study(restored, study.name).state == "done"
        assert_in_step(restored, study)
        make_study(restored, home, random_document(2, name="another"))  # counters go on where they were


def test_the_worker_of_a_running_point_may_still_finish_it_after_a_restoration(database, home, tmp_path):
    study, running = half_done(database, home)
    backup(database.url, tmp_path / "file")
    Ledger(database).release(running, "something else happened")
    Mirror(database, study).reconcile()
    restore(database.url, tmp_path / "file", force=True)
    with open_database(database.url) as again:
        Ledger(again).finish(running, "complete", 0.75, None, None)
        assert [row.value for row in points(again, study)] == [0.5, 0.75, None]


def work(url, home, name):
    with open_database(parse_url(url, home)) as database:
        make_worker(database, home).run([name])


def test_a_backup_is_one_moment_while_workers_write(database, home, elsewhere, tmp_path, children):
    study = make_study(database, home, random_document(30))
    for _ in range(2):
        children.start(work, database.url.render_as_string(hide_password=False), home, study.name)
    taken = []
    while load_study(database, study.name).state != "done":
        taken.append(tmp_path / f"backup-{len(taken)}")
        backup(database.url, taken[-1])
    assert children.join() == [0, 0]
    assert_each_once(database, study, 30)
    for file in {taken[0], taken[len(taken) // 2], taken[-1]}:
        restore(elsewhere, file, force=True, workers_are_dead=True)
        with open_database(elsewhere) as restored:
            now = {row.number: row for row in points(restored, study)}
            for row in attempts(restored, study):
                assert now[row.point].state == row.outcome  # both of one transaction, or neither
            assert len(shown(restored, study)) == 30
            end_leases(restored)
            make_worker(restored, home).run([study.name])
            assert load_study(restored, study.name).state == "done"
            Mirror(restored, study).reconcile()
            assert_in_step(restored, study)


def test_a_database_with_studies_is_not_overwritten_unless_forced(database, home, tmp_path):
    run_study(database, home, random_document(1, name="old"))
    backup(database.url, tmp_path / "file")
    run_study(database, home, random_document(1, name="new"))
    before = contents(database)
    with pytest.raises(StorageError, match=r"holds 2 studies, which would be lost.*--force"):
        restore(database.url, tmp_path / "file")
    assert contents(database) == before
    restore(database.url, tmp_path / "file", force=True)
    assert [study.name for study in load_studies(database)] == ["old"]


def test_nothing_is_restored_while_workers_are_at_work(database, home, tmp_path):
    backup(database.url, tmp_path / "file")
    study, _ = half_done(database, home)
    ledger = Ledger(database)
    ledger.register("idle", host="here", process=7, device="")
    before = contents(database)
    with pytest.raises(StorageError, match=r"^2 workers seem to be at work .* wait 1\d\d seconds.*--workers-are-dead"):
        restore(database.url, tmp_path / "file", force=True)
    end_leases(database)
    with pytest.raises(StorageError, match=r"^1 worker seems to be at work .* wait \d\d seconds"):
        restore(database.url, tmp_path / "file", force=True)
    assert len(contents(database)) == len(before)
    assert load_study(database, study.name).state == "open"
    ledger.leave("idle")
    restore(database.url, tmp_path / "file", force=True)
    assert load_studies(database) == []


def test_what_workers_did_cannot_keep_a_damaged_database_from_being_restored(sqlite, home, tmp_path):
    half_done(sqlite, home)
    backup(sqlite.url, tmp_path / "file")
    with sqlite.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE rust_optuna_point")
    sqlite.close()
    restore(sqlite.url, tmp_path / "file", force=True)
    with open_database(sqlite.url) as again:
        assert len(load_studies(again)) == 1


def test_a_restoration_tells_of_the_scores_that_the_store_lacks(sqlite, home):
    study = make_study(sqlite, home, random_document(3))
    ledger, store = Ledger(sqlite), open_store("storage/artifacts", home)
    for name in ("one", "two", "three"):
        ledger.finish(ledger.claim([study.id], "ann"), "complete", 0.5, None, name)
        store.write(name, io.BytesIO(b"scores"))
    place = ("--home", home.root, "--storage", sqlite.url.render_as_string())
    done = invoke(*place, "storage", "backup", "file")
    assert f"The trials' scores are not part of the backup: copy {home.root}/storage/artifacts too" in done.output
    sqlite.close()
    assert "scores" not in invoke(*place, "storage", "restore", "file", "--force").output
    for name in ("one", "three"):
        store.remove(name)
    done = invoke(*place, "storage", "restore", "file", "--force")
    assert done.exit_code == 0, done.output
    assert f"the scores of 2 of 3 complete trials are not in {home.root}/storage/artifacts: restore them" in done.output


def test_a_database_with_empty_tables_may_be_restored_into(database, home, elsewhere, tmp_path):
    backup(database.url, tmp_path / "empty")
    restore(elsewhere, tmp_path / "empty")
    restore(elsewhere, tmp_path / "empty")
    with open_database(elsewhere) as restored:
        assert contents(restored) == contents(database)


def spoiled(path, how):
    content = path.read_bytes()
    if how == "cut short":
        return content[: len(content) // 2]
    if how == "overwritten":
        return content[:4096] + b"\xff" * (len(content) - 8192) + content[-4096:]
    return {"empty": b"", "text": b"no backup at all"}[how]


@pytest.mark.parametrize("how", ["cut short", "overwritten", "empty", "text"])
def test_a_spoiled_file_changes_nothing(database, home, tmp_path, how):
    half_done(database, home)
    backup(database.url, tmp_path / "file")
    (tmp_path / "file").write_bytes(spoiled(tmp_path / "file", how))
    before = contents(database)
    with pytest.raises(StorageError) as raised:
        restore(database.url, tmp_path / "file", force=True, workers_are_dead=True)
    assert str(tmp_path / "file") in str(raised.value) or "pg_restore" in str(raised.value)
    assert contents(database) == before


def test_a_backup_of_a_later_version_is_refused(database, elsewhere, tmp_path):
    newer = tables.schema.update().values(version=tables.SCHEMA_VERSION + 1)
    database.transact(lambda connection: connection.execute(newer))
    backup(database.url, tmp_path / "file")
    with pytest.raises(StorageError, match=f"version {tables.SCHEMA_VERSION + 1}.*or a later one"):
        restore(elsewhere, tmp_path / "file")
    if database.backend.file is not None:
        assert not Path(elsewhere.database).exists()


def test_another_programs_database_is_no_backup(sqlite, home, tmp_path):
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE songs (name TEXT)")
    connection.close()
    with pytest.raises(StorageError, match="this program did not write"):
        restore(sqlite.url, tmp_path / "other.db", force=True)


def test_a_backup_goes_back_into_its_own_kind_of_database_only(sqlite, tmp_path):
    (tmp_path / "dump").write_bytes(b"PGDMP\x01\x0e\x00")
    with pytest.raises(StorageError, match="a backup of PostgreSQL, and the storage is SQLite"):
        restore(sqlite.url, tmp_path / "dump")


def test_a_backup_is_never_overwritten_nor_made_of_nothing(sqlite, home, tmp_path):
    for file in (tmp_path / "file", Path(sqlite.url.database)):
        file.touch()
        before = file.read_bytes()
        with pytest.raises(StorageError, match="already exists"):
            backup(sqlite.url, file)
        assert file.read_bytes() == before
    nothing = parse_url(f"sqlite:///{tmp_path}/nothing.db", home)
    with pytest.raises(NoDatabaseError, match="nothing to back up"):
        backup(nothing, tmp_path / "new")
    assert not (tmp_path / "nothing.db").exists()
    Path(nothing.database).touch()
    with pytest.raises(NoDatabaseError, match="holds no studies yet"):
        backup(nothing, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_sqlite_restoration_that_dies_halfway_leaves_what_was(sqlite, home, tmp_path, monkeypatch, children):
    half_done(sqlite, home)
    backup(sqlite.url, tmp_path / "file")
    run_study(sqlite, home, random_document(5, name="new"))
    before = contents(sqlite)
    child = children.start(die_while_copying, tmp_path / "file", Path(sqlite.url.database))
    child.join()
    assert child.exitcode == 9
    with Database(sqlite.url) as again:
        assert contents(again) == before


def die_while_copying(source, target):
    import os

    old, new = sqlite3.connect(source), sqlite3.connect(target)
    old.backup(new, pages=5, progress=lambda status, remaining, total: os._exit(9))


@pytest.mark.postgresql
def test_a_postgresql_restoration_that_fails_halfway_leaves_what_was(postgresql, home, tmp_path):
    half_done(postgresql, home)
    backup(postgresql.url, tmp_path / "file")
    with postgresql.engine.begin() as connection:
        connection.exec_driver_sql("CREATE VIEW mine AS SELECT name FROM rust_optuna_study")
    before = contents(postgresql)
    with pytest.raises(StorageError, match=r"pg_restore failed, and nothing was changed: .*mine"):
        restore(postgresql.url, tmp_path / "file", force=True, workers_are_dead=True)
    assert contents(postgresql) == before


SECRET = "correct-horse"
SPY = """\
#!/bin/sh
echo "$0 $@ / $PGPASSWORD" >> {log}
echo "pg_dump: error: aborting because of server version mismatch" >&2
exit 1
"""


@pytest.mark.postgresql
def test_the_password_goes_through_the_environment_and_the_programs_words_are_passed_on(
    postgresql, tmp_path, monkeypatch
):
    program = tmp_path / "bin" / "pg_dump"
    program.parent.mkdir()
    program.write_text(SPY.format(log=tmp_path / "log"))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    with pytest.raises(StorageError, match="aborting because of server version mismatch") as raised:
        backup(postgresql.url.set(password=SECRET), tmp_path / "file")
    arguments, _, secret = (tmp_path / "log").read_text().strip().partition(" / ")
    assert SECRET not in arguments
    assert secret == SECRET
    assert SECRET not in str(raised.value)
    assert not (tmp_path / "file").exists()
    assert [path.name for path in tmp_path.glob(".file*")] == []


@pytest.mark.postgresql
def test_where_postgresqls_programs_are_missing_it_says_which(postgresql, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StorageError, match="pg_dump is not on the PATH: install PostgreSQL's client"):
        backup(postgresql.url, tmp_path / "file")


def test_mariadb_is_left_to_its_own_program(home, tmp_path):
    url = parse_url("mysql://nobody@nowhere/none", home)
    for attempt in (lambda: backup(url, tmp_path / "file"), lambda: restore(url, tmp_path / "file")):
        with pytest.raises(StorageError, match="mariadb-dump"):
            attempt()


def test_nothing_is_restored_onto_a_network_file_system(sqlite, home, tmp_path, monkeypatch):
    backup(sqlite.url, tmp_path / "file")
    (tmp_path / "mounts").write_text(f"server:/x {tmp_path}/share nfs rw 0 0\n")
    monkeypatch.setattr("rust_optuna.storage.refusal.MOUNTS", tmp_path / "mounts")
    with pytest.raises(StorageError, match="network file system"):
        restore(parse_url(f"sqlite:///{tmp_path}/share/a.db", home), tmp_path / "file")
    assert not (tmp_path / "share").exists()


def test_the_commands_say_what_they_did(sqlite, home):
    run_study(sqlite, home, random_document(1))
    url = sqlite.url.render_as_string(hide_password=False)
    ended = run_command(home, url, "storage", "backup", "storage/backups/monday")
    assert ended.returncode == 0, ended.stderr
    assert f"{home.root}/storage/backups/monday: " in ended.stdout
    assert "storage restore storage/backups/monday" in ended.stdout
    ended = run_command(home, url, "storage", "restore", "storage/backups/monday")
    assert ended.returncode == 1
    assert "holds 1 study" in ended.stderr
    new = f"sqlite:///{home.root}/storage/new.db"
    assert run_command(home, new, "storage", "restore", "storage/backups/monday").returncode == 0
    assert '"complete": 1' in run_command(home, new, "status", "--json").stdout
    missing = run_command(home, new, "storage", "restore", "storage/none")
    assert (missing.returncode, "Traceback" in missing.stderr) == (1, False)


@pytest.mark.postgresql
def test_the_password_of_a_key_stands_in_no_command_line(postgresql, tmp_path):
    url = postgresql.url.update_query_dict({"sslpassword": "secret"})
    with pytest.raises(StorageError, match="a key that needs none") as raised:
        backup(url, tmp_path / "file")
    assert "secret" not in str(raised.value)
    assert not (tmp_path / "file").exists()


def test_a_restoration_does_not_wait_for_ever_for_a_table_whatever_options_the_url_has():
    conninfo = pytest.importorskip("psycopg.conninfo")
    url = parse_url("postgresql://ann@host/name?options=-csearch_path%3Dmine", Home(Path("/")))
    arguments, _ = _connection(url)
    options = conninfo.conninfo_to_dict(arguments[-1].removeprefix("--dbname="))["options"]
    assert options == f"-csearch_path=mine -c lock_timeout={LOCK_SECONDS}s"
