"""Databases that were made with another encoding than UTF-8: whatever an error says is recorded."""

import functools

import pytest
import sqlalchemy as sa

from rust_optuna.errors import StorageError
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.results import failed_attempts
from rust_optuna.search.studies import load_study
from rust_optuna.storage.database import create_database, open_database
from rust_optuna.storage.tables import LONGEST_NAME, LONGEST_REASON, worker
from rust_optuna.storage.url import parse_url
from tests import mariadb as servers
from tests.cli.test_main import invoke
from tests.conftest import new_postgresql
from tests.studies import make_study, random_document, write_study

WHOLE = "ValueError: no \N{MICROSCOPE} lück 日  ? ? –"
ESCAPED = WHOLE.encode("ascii", "backslashreplace").decode()
ENCODINGS = [
    pytest.param("sqlite", "", WHOLE, id="sqlite"),
    *(
        pytest.param("postgresql", encoding, kept, id=encoding, marks=pytest.mark.postgresql)
        for encoding, kept in (("SQL_ASCII", ESCAPED), ("LATIN1", ESCAPED), ("EUC_JP", ESCAPED), ("UTF8", WHOLE))
    ),
    *(
        pytest.param("mariadb", characters, kept, id=characters, marks=pytest.mark.mariadb)
        for characters, kept in (("latin1", ESCAPED), ("utf8mb3", ESCAPED), ("utf8mb4", WHOLE), ("ascii", ESCAPED))
    ),
]


@pytest.fixture
def made(request, tmp_path):
    """The URL of a new database with the encoding that a test asks for, and what is kept of an error there."""
    backend, encoding, kept = request.param
    if backend == "sqlite":
        yield f"sqlite:///{tmp_path / 'a.db'}", kept
        return
    options = f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
    new = new_postgresql(options=options) if backend == "postgresql" else servers.new_database(encoding)
    with new as url:
        yield url, kept


def every_encoding(test, in_short=tuple(each.id for each in ENCODINGS)):
    """Run a test in a database of each encoding; in those that are not ``in_short``, under `make test-long` alone."""
    cases = [
        pytest.param(
            tuple(each.values), id=each.id, marks=[*each.marks, *([] if each.id in in_short else [pytest.mark.long])]
        )
        for each in ENCODINGS
    ]
    return pytest.mark.parametrize("made", cases, indirect=True)(test)


@functools.partial(every_encoding, in_short=("sqlite", "SQL_ASCII", "UTF8", "latin1"))
def test_whatever_an_error_says_is_recorded_through_the_commands(made, home, monkeypatch):
    monkeypatch.setattr("rust_optuna.worker.stopping.stop_on_signals", lambda stop: None)
    url, kept = made
    place = ("--home", home.root, "--storage", url)
    created = invoke(*place, "study", "create", write_study(home, random_document(2)))
    assert created.exit_code == 0, created.output
    done = invoke(*place, "worker", "run", "--objective", "tests.stand_ins:raising_in_any_script")
    assert done.exit_code == 0, done.output
    with open_database(parse_url(url, home), read_only=True) as database:
        reasons = {each.reason for each in failed_attempts(database, load_study(database, "regime-1"))}
    assert reasons == {kept}
    assert invoke(*place, "study", "show", "regime-1").exit_code == 0


@every_encoding
def test_the_names_of_a_host_and_its_devices_may_be_long_and_of_any_script(made, home):
    url, kept = made
    with create_database(parse_url(url, home), "storage/artifacts") as database:
        Ledger(database).register("ann", host="rönt日" * 100, process=1, device=200 * "\N{MICROSCOPE}")
        query = sa.select(worker.c.host, worker.c.device)
        host, device = database.transact(lambda connection: connection.execute(query).one())
    assert host.startswith("rönt日" if kept == WHOLE else r"r\xf6nt\u65e5")
    assert len(host) == LONGEST_NAME
    assert device in (200 * "\N{MICROSCOPE}", (200 * r"\U0001f52c")[:LONGEST_NAME])


@every_encoding
def test_where_the_artifacts_are_is_kept_or_refused_before_anything_is_made(made, home):
    url, kept = made
    location = str(home.root / "Röntgen")
    if kept == WHOLE:
        with create_database(parse_url(url, home), location) as database:
            assert database.artifacts() == location
    else:
        with pytest.raises(
            StorageError, match=r"may not hold the artifacts' location .*Röntgen: name a folder in ASCII"
        ):
            create_database(parse_url(url, home), location)
        with create_database(parse_url(url, home), "storage/artifacts") as database:
            assert database.artifacts() == "storage/artifacts"


@pytest.mark.mariadb
def test_tables_of_another_encoding_than_their_databases_are_noticed(home):
    with servers.new_database("latin1") as text:
        url = parse_url(text, home)
        create_database(url, "storage/artifacts").close()
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"ALTER DATABASE {url.database} CHARACTER SET utf8mb4")
        with open_database(url) as database:
            Ledger(database).register("ann", host="日", process=1, device="")
            assert (
                database.transact(lambda connection: connection.execute(sa.select(worker.c.host)).scalar()) == r"\u65e5"
            )


def test_an_error_of_a_megabyte_is_kept_in_part(sqlite, home):
    study = make_study(sqlite, home)
    ledger = Ledger(sqlite)
    ledger.fail(ledger.claim([study.id], "ann"), 1_000_000 * "ö")
    (failed,) = failed_attempts(sqlite, study)
    assert failed.reason == LONGEST_REASON * "ö"


def test_a_location_that_is_no_unicode_is_refused(home):
    with pytest.raises(StorageError, match="is not valid UTF-8: name another folder"):
        create_database(parse_url("sqlite:///storage/a.db", home), "/data/R\udcf6ntgen")
