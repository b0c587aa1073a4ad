import socket
import threading
import time
import uuid
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError, StatementError

from rust_optuna.errors import StorageError
from rust_optuna.paths import Home
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.studies import load_study
from rust_optuna.storage import tables
from rust_optuna.storage.database import Database, create_database, open_database
from rust_optuna.storage.outages import may_pass
from rust_optuna.storage.states import AttemptState, FaultKind, PointState, StudyState
from rust_optuna.storage.url import parse_url
from tests.deploy.server import NAME, ROLE, postgresql_with_password
from tests.studies import make_study, wait_until

SECRET = "correct-horse"
HERE = Home(Path("/nowhere"))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# URLs


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("sqlite:///storage/rust_optuna.db", "sqlite:////nowhere/storage/rust_optuna.db"),
        ("sqlite:////elsewhere/a.db", "sqlite:////elsewhere/a.db"),
        ("postgresql://user@host/name", "postgresql+psycopg://user@host/name"),
        ("mariadb+pymysql://user@host/name", "mysql+pymysql://user@host/name"),
        ("postgres://user@host/name", "postgresql+psycopg://user@host/name"),
        ("mariadb://user@host/name", "mysql+pymysql://user@host/name"),
        ("mysql://user@host/name", "mysql+pymysql://user@host/name"),
    ],
)
def test_a_url_means_a_database_below_the_home_with_the_driver_we_use(text, meant):
    assert parse_url(text, HERE).render_as_string(hide_password=False) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "storage/rust_optuna.db",
        "sqlite://",
        "sqlite:///:memory:",
        f"oracle://user:{SECRET}@host/name",
        f"postgresql://user:{SECRET}@host:port/name",
        f"post gres://user:{SECRET}@host",
    ],
)
def test_an_unusable_url_is_refused_without_its_password(text):
    with pytest.raises(StorageError) as raised:
        parse_url(text, HERE)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "mysql", "mariadb"])
@pytest.mark.parametrize("password", [f"{SECRET}@", f"@{SECRET}", f"a@{SECRET}:b", f"a@b:12/{SECRET}"])
def test_a_raw_special_character_in_a_password_is_explained_without_it(scheme, password):
    with pytest.raises(StorageError, match=r"@ is %40.*--password-file") as raised:
        parse_url(f"{scheme}://user:{password}@host/name", HERE)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("back_end", ["postgresql", "mariadb"])
def test_a_database_that_is_not_there_is_told_with_what_makes_it(request, back_end):
    there = request.getfixturevalue(f"{back_end}_url")
    url = parse_url(sa.make_url(there).set(database="no_such_one").render_as_string(hide_password=False), HERE)
    make = {"postgresql": "createdb no_such_one", "mariadb": "mariadb-admin create no_such_one"}[back_end]
    for attempt in (lambda: open_database(url), lambda: create_database(url, "artifacts")):
        with pytest.raises(StorageError, match=make) as raised:
            attempt()
        assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text",
    [f"postgresql://user:{SECRET}@host/name", f"postgresql://host/name?user=me&password={SECRET}"],
    ids=["userinfo", "query"],
)
def test_a_password_is_not_part_of_a_databases_name(text):
    pytest.importorskip("psycopg")
    shown = str(Database(parse_url(text, HERE)))
    assert SECRET not in shown
    assert "host/name" in shown


@pytest.mark.parametrize(
    "text", ["postgresql://user:{}@127.0.0.1:{}/name", "postgresql://127.0.0.1:{1}/n?password={0}"]
)
def test_an_unreachable_database_is_one_error_without_the_password(text):
    pytest.importorskip("psycopg")
    url = parse_url(text.format(SECRET, free_port()), HERE)
    for attempt in (lambda: open_database(url), lambda: create_database(url, "artifacts")):
        with pytest.raises(StorageError) as raised:
            attempt()
        assert SECRET not in str(raised.value)
        assert "127.0.0.1" in str(raised.value)
        assert len(str(raised.value).splitlines()) == 1


def test_a_lock_of_an_unreachable_database_is_one_error_too():
    pytest.importorskip("psycopg")
    url = parse_url(f"postgresql://127.0.0.1:{free_port()}/name", HERE)
    with pytest.raises(StorageError, match="does not answer"), Database(url, patience=0).exclusive("schema"):
        pass


def test_an_option_that_the_driver_does_not_know_is_named():
    pytest.importorskip("pymysql")
    with pytest.raises(StorageError, match="PyMySQL does not know; correct or remove them: ssl_mode"):
        Database(parse_url("mysql://user@host/name?ssl_mode=REQUIRED&charset=utf8mb4", HERE))


def test_a_value_that_an_option_cannot_have_is_one_error():
    pytest.importorskip("pymysql")
    with pytest.raises(StorageError, match=r"option that cannot be used; correct or remove it: .*'soon'$"):
        Database(parse_url("mysql://user@host/name?connect_timeout=soon", HERE))


@pytest.mark.parametrize("of", ["the ledger", "Optuna"])
def test_mariadb_tells_utc_whatever_its_connections_begin_with(mariadb, of):
    begin = {"init_command": "SET sql_mode = 'ANSI', time_zone = '+05:00'"}
    with open_database(mariadb.url.update_query_dict(begin)) as database:
        engine = database.engine if of == "the ledger" else database.storage.engine
        with engine.connect() as connection:
            zone, mode = connection.exec_driver_sql("SELECT @@time_zone, @@sql_mode").one()
    assert zone == "+00:00"
    assert "ANSI" in mode.split(",")


def test_a_lock_is_waited_for_however_short_the_url_lets_an_answer_take(mariadb):
    with open_database(mariadb.url.update_query_dict({"read_timeout": "7"})) as database:
        limits = []
        for engine in (database.engine, database.backend._lock_engine()):
            with engine.connect() as connection:
                limits.append(connection.connection.driver_connection._read_timeout)
    assert limits == [7, None]


def test_a_lock_that_is_not_given_is_an_error_and_what_it_was_to_guard_is_not_run(mariadb, monkeypatch):
    """MariaDB says no by an ordinary answer, where others wait or fail."""
    with open_database(mariadb.url) as other, mariadb.exclusive("one"):
        monkeypatch.setattr(other.backend, "take_lock", "SELECT GET_LOCK('{key}', 0)")
        with pytest.raises(StorageError, match="gave no lock one: SELECT GET_LOCK returned 0"), other.exclusive("one"):
            pytest.fail("it was run")


@pytest.mark.parametrize("states", [StudyState, PointState, AttemptState, FaultKind])
def test_a_word_that_is_no_state_is_not_kept_and_one_that_is_comes_back_as_one(sqlite, states):
    def through_the_database(word):
        value = sa.literal(word, tables.State(states))
        return sqlite.transact(lambda connection: connection.execute(sa.select(value)).scalar())

    assert [through_the_database(str(state)) for state in states] == list(states)
    assert {type(through_the_database(str(state))) for state in states} == {states}
    assert through_the_database(None) is None
    with pytest.raises(StatementError, match="'no such state'"):
        through_the_database("no such state")


def test_what_the_url_says_of_its_connections_stands(postgresql):
    options = {"options": "-c search_path=mine -c statement_timeout=7s", "connect_timeout": "3"}
    with Database(postgresql.url.update_query_dict(options)) as database:

        def shown(name):
            return database.transact(lambda c: c.exec_driver_sql(f"SHOW {name}").scalar_one())

        assert [shown(name) for name in ("search_path", "statement_timeout", "timezone")] == ["mine", "7s", "UTC"]
        assert database.backend.connect_arguments().keys() & options.keys() == {"options"}


# What is there and what is not


def test_a_missing_file_is_not_made_by_opening_it(tmp_path):
    url = parse_url(f"sqlite:///{tmp_path}/storage/none.db", HERE)
    for read_only in (True, False):
        with pytest.raises(StorageError, match="study create"):
            open_database(url, read_only=read_only)
    assert list(tmp_path.iterdir()) == []


def test_a_database_without_our_tables_holds_no_studies_yet(database_url):
    url = parse_url(database_url, HERE)
    if url.get_backend_name() == "sqlite":
        Path(url.database).parent.mkdir()
        Path(url.database).touch()
    with pytest.raises(StorageError, match="holds no studies yet"):
        open_database(url, read_only=True)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "notes.db").write_text("no database at all" * 100)
    url = parse_url(f"sqlite:///{tmp_path}/notes.db", HERE)
    for attempt in (lambda: open_database(url, read_only=True), lambda: create_database(url, "artifacts")):
        with pytest.raises(StorageError, match="not a database"):
            attempt()


def test_tables_of_another_version_are_refused(database):
    newer = tables.schema.update().values(version=tables.SCHEMA_VERSION + 1)
    database.transact(lambda connection: connection.execute(newer))
    for attempt in (lambda: open_database(database.url), lambda: create_database(database.url, "artifacts")):
        with pytest.raises(StorageError, match=f"version {tables.SCHEMA_VERSION + 1}"):
            attempt()


def test_the_first_to_make_a_database_says_where_its_artifacts_lie(database):
    with create_database(database.url, "elsewhere") as again:
        assert again.artifacts() == "storage/artifacts"


def test_one_who_only_reads_cannot_write(sqlite):
    with open_database(sqlite.url, read_only=True) as reader:
        assert reader.artifacts() == "storage/artifacts"
        change = tables.schema.update().values(artifacts="mine")
        with pytest.raises(OperationalError, match="readonly"), reader.engine.begin() as connection:
            connection.execute(change)
    assert sqlite.artifacts() == "storage/artifacts"


def test_readers_do_not_wait_for_the_writer(sqlite):
    with (
        open_database(sqlite.url, read_only=True) as reader,
        sqlite.engine.begin() as connection,
    ):
        connection.execute(tables.schema.update().values(artifacts="mine"))
        assert reader.artifacts() == "storage/artifacts"


def make_tables(url, barrier):
    barrier.wait()
    create_database(parse_url(url, HERE), "storage/artifacts").close()


def test_eight_processes_can_make_the_tables_at_once(database_url, children):
    barrier = children.context.Barrier(8)
    for _ in range(8):
        children.start(make_tables, database_url, barrier)
    assert children.join() == [0] * 8
    with open_database(parse_url(database_url, HERE)) as database:
        [row] = database.transact(lambda c: c.execute(sa.select(tables.schema)).all())
        assert (row.version, row.artifacts) == (tables.SCHEMA_VERSION, "storage/artifacts")
        assert optuna.get_all_study_names(database.storage) == []


# Transactions


def count_up(database, times):
    """Read a number and write it back one higher: two that interleave lose a step."""
    for _ in range(times):

        def step(connection):
            now = int(connection.execute(sa.select(tables.schema.c.artifacts).with_for_update()).scalar_one())
            connection.execute(tables.schema.update().values(artifacts=str(now + 1)))

        database.transact(step)


def count_up_in_a_process(url, times):
    with open_database(parse_url(url, HERE)) as database:
        count_up(database, times)


def test_a_read_and_a_write_in_one_transaction_are_one_step(database, children):
    database.transact(lambda c: c.execute(tables.schema.update().values(artifacts="0")))
    url = database.url.render_as_string(hide_password=False)
    for _ in range(3):
        children.start(count_up_in_a_process, url, 20)
    # Each thread has its own connections: a pool of two is for one worker.
    opened = [open_database(database.url) for _ in range(3)]
    threads = [threading.Thread(target=count_up, args=(each, 20)) for each in opened]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert children.join() == [0] * 3
    assert database.artifacts() == "120"
    for each in opened:
        each.close()


def test_a_transaction_that_the_database_broke_off_is_tried_again(database, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    tries = []

    def unlucky(connection):
        tries.append(1)
        if len(tries) < 3:
            raise OperationalError("SELECT", {}, Exception("deadlock"))
        return "through"

    assert database.transact(unlucky) == "through"
    assert len(tries) == 3


def test_a_database_that_stays_away_is_an_error_in_the_end(sqlite, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def away(connection):
        raise OperationalError("SELECT", {}, Exception("gone\nfor good"))

    with pytest.raises(StorageError, match=r"does not answer: gone$"):
        sqlite.transact(away)


DROP_ALL = {
    "postgresql": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "mariadb": "BEGIN NOT ATOMIC FOR other IN (SELECT id FROM information_schema.processlist "
    "WHERE db = database() AND id <> connection_id()) DO KILL other.id; END FOR; END",
}


@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_a_dropped_connection_is_replaced(server, request, home):
    database = request.getfixturevalue(server)
    study = optuna.create_study(storage=database.storage)
    with open_database(database.url) as other:

        def drop_all():
            with other.engine.begin() as connection:
                connection.exec_driver_sql(DROP_ALL[server])

        drop_all()
        assert database.artifacts() == "storage/artifacts"
        assert database.patiently(study.ask).number == 0
        broken_off = []

        def interrupted(connection):
            if not broken_off:
                broken_off.append(1)
                drop_all()
            return connection.execute(sa.select(tables.schema.c.artifacts)).scalar_one()

        assert database.transact(interrupted) == "storage/artifacts"


def test_a_reason_to_give_up_ends_the_patience(sqlite):
    """After the waiting: what went wrong may be over by then, so it is tried once more unless there is a reason."""
    tries = []

    def away():
        tries.append(1)
        raise sa.exc.OperationalError("SELECT", {}, ConnectionError("nobody there"))

    sqlite.patience = 1e6
    sqlite.give_up = lambda: len(tries) == 3
    with pytest.raises(StorageError, match="does not answer: nobody there"):
        sqlite.patiently(away)
    assert len(tries) == 3


def test_a_trouble_that_optunas_storage_meets_is_one_line_too(sqlite):
    """Optuna wraps what SQLAlchemy raises."""
    sqlite.patience = 0

    def away():
        try:
            raise OperationalError("SELECT", {}, ConnectionError("nobody there"))
        except OperationalError as error:
            raise optuna.exceptions.StorageInternalError("An exception\nis raised during the commit.") from error

    with pytest.raises(StorageError, match=r"does not answer: nobody there$"):
        sqlite.patiently(away)


@contextmanager
def mariadb_with_a_password(url):
    """Yield the URL of a new user of a database, and a function that changes the user's password."""
    user = f"user_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE USER {user}@'%%' IDENTIFIED BY '{SECRET}'")
        try:
            connection.exec_driver_sql(f"GRANT ALL ON {url.database}.* TO {user}@'%%'")
            change = f"SET PASSWORD FOR {user}@'%%' = PASSWORD('another')"
            yield url.set(username=user, password=SECRET), lambda: connection.exec_driver_sql(change)
        finally:
            connection.exec_driver_sql(f"DROP USER {user}@'%%'")


@contextmanager
def postgresql_whose_password_changes():
    import psycopg

    with postgresql_with_password(SECRET) as port:
        url = f"postgresql+psycopg://{ROLE}:{SECRET}@127.0.0.1:{port}/{NAME}"

        def change():
            with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
                connection.execute(f"ALTER ROLE {ROLE} PASSWORD 'another'")

        yield sa.make_url(url), change


@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_a_password_that_was_changed_is_told_at_once_however_patient_a_worker_is(server, request, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waited for a wrong password to become right"))
    if server == "postgresql":
        pytest.importorskip("psycopg")
        server = postgresql_whose_password_changes()
    else:
        server = mariadb_with_a_password(sa.make_url(request.getfixturevalue("mariadb_url")))
    with server as (url, change_password), Database(url, patience=1e6) as database:
        database.create("storage/artifacts")
        study = optuna.create_study(storage=database.storage)
        assert database.artifacts() == "storage/artifacts"
        change_password()
        database.close()
        for act in (database.artifacts, lambda: database.patiently(study.ask), lambda: take_the_lock(database)):
            with pytest.raises(StorageError, match="refuses its user: ") as raised:
                act()
            assert SECRET not in str(raised.value)
            assert len(str(raised.value).splitlines()) == 1
            assert "escape special characters of the password" in str(raised.value)
            assert "% is %25" in str(raised.value)


def take_the_lock(database):
    with database.exclusive("study:a"):
        pass


@pytest.mark.parametrize("number", [1020, 1205, 1213, 1927, 2006, 2013])
def test_what_mariadb_breaks_off_may_be_tried_again(number):
    """Record has changed, lock wait timeout, deadlock, killed connection, server gone, no answer."""
    errors = pytest.importorskip("pymysql.err")
    driver = sa.create_engine("mysql+pymysql://nobody@nowhere/none").dialect.loaded_dbapi
    with pytest.raises(errors.Error) as raised:
        errors.raise_mysql_exception(b"\xff" + number.to_bytes(2, "little") + b"#HY000what it says")
    wrapped = sa.exc.DBAPIError.instance("UPDATE", {}, raised.value, driver.Error)
    assert may_pass(wrapped)


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_the_databases_clock_knows_no_time_zones(database, monkeypatch, zone):
    monkeypatch.setenv("TZ", zone)
    monkeypatch.setenv("PGTZ", zone)
    time.tzset()
    try:
        with open_database(database.url) as abroad:
            now = abroad.transact(lambda c: c.execute(sa.select(tables.database_now())).scalar_one())
    finally:
        monkeypatch.undo()
        time.tzset()
    assert abs(now - time.time()) < 600


# The lock


def hold(url, folder, number):
    with open_database(parse_url(url, HERE)) as database, database.exclusive("study:a"):
        (folder / f"held-{number}").touch()
        while not (folder / "let-go").exists():
            time.sleep(0.01)
        (folder / f"left-{number}").touch()


def test_the_lock_keeps_other_processes_out_and_dies_with_its_holder(database, tmp_path, children):
    url = database.url.render_as_string(hide_password=False)
    first = children.start(hold, url, tmp_path, 1)
    wait_until((tmp_path / "held-1").exists)
    second = children.start(hold, url, tmp_path, 2)
    # Optuna and the ledger write meanwhile: it is no transaction.
    for step in range(20):
        database.transact(lambda c, s=step: c.execute(tables.schema.update().values(artifacts=str(s))))
    optuna.create_study(storage=database.storage)
    assert not (tmp_path / "held-2").exists()

    first.kill()
    wait_until((tmp_path / "held-2").exists)
    assert not (tmp_path / "left-1").exists()
    (tmp_path / "let-go").touch()
    second.join(30)
    assert second.exitcode == 0
    with database.exclusive("study:a"):
        pass


def add_under_the_lock(url, path, times):
    with open_database(parse_url(url, HERE)) as database:
        for _ in range(times):
            with database.exclusive("study:a"):
                path.write_text(str(int(path.read_text()) + 1))


def test_the_lock_admits_one_at_a_time(database, tmp_path, children):
    path = tmp_path / "count"
    path.write_text("0")
    url = database.url.render_as_string(hide_password=False)
    for _ in range(4):
        children.start(add_under_the_lock, url, path, 15)
    assert children.join() == [0] * 4
    assert path.read_text() == "60"


def test_optunas_storage_takes_the_writers_lock_when_it_begins(sqlite):
    study = optuna.create_study(storage=sqlite.storage)
    trial = study.ask()
    began = []

    @sa.event.listens_for(sqlite.storage.engine, "before_cursor_execute")
    def note(connection, cursor, statement, *rest):
        if statement.startswith("BEGIN"):
            began.append(statement)

    trial.report(0.5, 1)
    assert set(began) == {"BEGIN IMMEDIATE"}


def test_one_trial_is_claimed_by_one_of_many_threads(sqlite):
    """Optuna's own claim is atomic on SQLite too, which it is not without BEGIN IMMEDIATE."""
    study = optuna.create_study(storage=sqlite.storage)
    for _ in range(10):
        study.add_trial(optuna.create_trial(state=optuna.trial.TrialState.WAITING))
    ids = [trial._trial_id for trial in study.get_trials()]
    wins = []
    barrier = threading.Barrier(4)

    def claim():
        with open_database(sqlite.url) as mine:
            for trial_id in ids:
                barrier.wait()
                if mine.storage.set_trial_state_values(trial_id, optuna.trial.TrialState.RUNNING):
                    wins.append(trial_id)

    threads = [threading.Thread(target=claim) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(wins) == sorted(ids)


@contextmanager
def postgresql_reader(url):
    """Yield the URL of a role that may read a database's tables, and do nothing else."""
    role = f"reader_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role}")
        try:
            connection.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
            yield url.update_query_dict({"options": f"-c role={role}"})
        finally:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")


@contextmanager
def mariadb_reader(url):
    """Do as `postgresql_reader`."""
    user = f"reader_{uuid.uuid4().hex[:12]}"
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE USER {user}@'%%'")
        try:
            connection.exec_driver_sql(f"GRANT SELECT ON {url.database}.* TO {user}@'%%'")
            yield url.set(username=user)
        finally:
            connection.exec_driver_sql(f"DROP USER {user}@'%%'")


@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_who_may_only_read_reads_and_is_told_at_once_what_writing_takes(server, request, home, monkeypatch):
    made = request.getfixturevalue(server)
    study = make_study(made, home)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waited for a permission to come"))
    reader = {"postgresql": postgresql_reader, "mariadb": mariadb_reader}[server]
    with reader(made.url) as url, open_database(url, patience=1e6) as database:
        assert load_study(database, study.name).state == "open"
        with pytest.raises(StorageError, match=r"denies its user .*INSERT, UPDATE and DELETE"):
            Ledger(database).retry_holes(study.id)
        with pytest.raises(StorageError, match="denies its user"):
            database.patiently(lambda: database.storage.set_study_user_attr(1, "key", "value"))
