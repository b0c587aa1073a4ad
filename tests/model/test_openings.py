import json
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from rust_optuna.errors import DataError, OpenedBeforeError
from rust_optuna.model.openings import Opening, Openings
from rust_optuna.search.creation import delete_study
from rust_optuna.storage.artifacts import open_store
from rust_optuna.storage.database import create_database
from rust_optuna.storage.tables import holdout_opening
from rust_optuna.storage.url import parse_url
from tests.studies import make_study

FIRST = Opening("regime-2", ("a", "b", "c"), {"whole": "1", "fold-0": "2"}, "the primary number", "ann", 0.0)
OTHER = replace(FIRST, models={"whole": "3", "fold-0": "4"})
NUMBERS = {"average_precision_16": {"value": 0.5, "low": 0.4, "high": 0.6, "resamples": 2000}}


@pytest.fixture
def openings(database, tmp_path):
    return Openings(database, tmp_path / "manifest.openings.json")


def test_an_opening_is_recorded_before_its_numbers_and_once(openings):
    begun = openings.begin(FIRST)
    assert begun.opened_at > 1.7e9
    assert openings.all() == [begun]
    assert begun.numbers is None

    # A process that was killed begins again: the same opening, at the same time.
    assert openings.begin(FIRST) == begun
    done = openings.complete(begun, NUMBERS)
    assert openings.begin(FIRST) == done
    assert openings.all() == [replace(begun, numbers=NUMBERS)]


@pytest.mark.parametrize("finished", [True, False])
def test_other_models_are_refused_unless_asked_for_again(openings, finished):
    first = openings.begin(FIRST)
    if finished:
        openings.complete(first, NUMBERS)
    with pytest.raises(OpenedBeforeError, match=r"opened once before \(by regime-2\).*--again"):
        openings.begin(OTHER)
    assert [opening.id for opening in openings.all()] == [first.id]
    second = openings.begin(OTHER, again=True)
    assert [opening.id for opening in openings.all()] == [first.id, second.id]
    with pytest.raises(OpenedBeforeError, match="2 times"):
        openings.begin(replace(FIRST, models={"whole": "5"}))


def test_one_film_in_common_makes_it_the_same_hold_out(openings):
    openings.begin(FIRST)
    with pytest.raises(OpenedBeforeError):
        openings.begin(replace(OTHER, films=("c", "d")))
    assert openings.begin(replace(OTHER, films=("d", "e"))).films == ("d", "e")


def test_the_file_outlives_the_database(openings, tmp_path, home):
    begun = openings.begin(FIRST)
    with create_database(parse_url(f"sqlite:///{tmp_path / 'new.db'}", home), "storage/other") as database:
        anew = Openings(database, openings.file)
        with pytest.raises(OpenedBeforeError):
            anew.begin(OTHER)
        # The same opening goes on, and the new database learns of it.
        assert anew.begin(FIRST) == begun
        openings.file.unlink()
        assert anew.all() == [begun]


def test_the_database_outlives_the_file_and_the_study(openings, database, home):
    make_study(database, home)
    begun = openings.begin(FIRST)
    openings.file.unlink()
    delete_study(database, "regime-1", open_store(database.artifacts(), home))
    with pytest.raises(OpenedBeforeError):
        openings.begin(OTHER)
    assert openings.all() == [begun]
    assert openings.begin(FIRST) == begun
    assert openings.file.is_file()


def test_numbers_that_only_one_of_the_two_learned_are_kept(openings, database):
    done = openings.complete(openings.begin(FIRST), NUMBERS)
    database.transact(lambda c: c.execute(holdout_opening.update().values(numbers=None)))
    assert openings.all() == [done]


def test_a_record_that_cannot_be_read_is_no_clean_record(openings):
    openings.begin(FIRST)
    openings.file.write_text(openings.file.read_text()[:-20])
    with pytest.raises(DataError, match=r"manifest\.openings\.json is damaged"):
        openings.begin(OTHER)


def test_a_record_that_cannot_be_written_keeps_the_hold_out_shut(openings, database, monkeypatch):
    monkeypatch.setattr("rust_optuna.model.openings.lack", lambda path, write: f"{path} cannot be written to")
    with pytest.raises(DataError, match="--record DIR"):
        openings.begin(FIRST)
    assert database.transact(lambda c: c.execute(sa.select(holdout_opening)).all()) == []


def test_what_an_opening_is_depends_on_films_models_and_definition_alone():
    assert replace(FIRST, asked_by="bob", opened_at=5.0, study="x", numbers=NUMBERS).id == FIRST.id
    others = [OTHER, replace(FIRST, films=("a",)), replace(FIRST, definition="another")]
    assert len({FIRST.id, *(other.id for other in others)}) == 4
    assert Opening.from_json(json.loads(json.dumps(FIRST.to_json()))) == FIRST


def test_two_databases_with_one_file_do_not_open_it_at_once(openings, tmp_path, home, monkeypatch):
    outcome, other_acts = [], threading.Event()

    def begin_the_other():
        with create_database(parse_url(f"sqlite:///{tmp_path / 'new.db'}", home), "storage/other") as database:
            try:
                outcome.append(Openings(database, openings.file).begin(OTHER))
            except OpenedBeforeError as error:
                outcome.append(error)
        other_acts.set()

    def waits(seconds):
        other_acts.set()
        time.sleep(seconds)

    def write(opening):
        # The first has looked and found no opening, and has written nothing yet.
        other.start()
        assert other_acts.wait(60)
        real(opening)

    other = threading.Thread(target=begin_the_other)
    real = openings._write
    monkeypatch.setattr(openings, "_write", write)
    monkeypatch.setattr("rust_optuna.locks.time", SimpleNamespace(monotonic=time.monotonic, sleep=waits))
    first = openings.begin(FIRST)
    other.join(60)
    assert [type(each) for each in outcome] == [OpenedBeforeError]
    assert [opening.id for opening in openings.all()] == [first.id]
