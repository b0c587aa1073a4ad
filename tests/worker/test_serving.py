import pytest
import sqlalchemy as sa

from rust_optuna.errors import DataError, StorageError, StudyError
from rust_optuna.search.creation import delete_study
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.studies import load_study
from rust_optuna.storage import tables
from rust_optuna.storage.artifacts import open_store
from rust_optuna.worker.serving import REFUSED_SECONDS, Serving, pin_runtime
from tests.studies import make_study, random_document, shown


class Prepared:
    """An objective that is ready, or says why it cannot be."""

    def __init__(self, study, trouble=None):
        self.study, self.trouble = study, trouble

    def runtime(self):
        return {"objective": "STAND-IN prepared"}

    def prepare(self, design):
        if self.trouble is not None:
            raise self.trouble

    def pin(self):
        pass


@pytest.fixture
def make_serving(database, home):
    def make(objective=Prepared, clock=lambda: 0.0, location="storage/artifacts"):
        return Serving(database, open_store(location, home), objective, clock)

    return make


def replaced(database, home, study, document):
    """Delete a study, and make another of its name."""
    delete_study(database, study.name, open_store("storage/artifacts", home), force=True)
    return make_study(database, home, document)


def test_a_study_made_anew_is_not_taken_for_the_deleted_one(database, home, make_serving):
    """SQLite gives it the same row."""
    serving = make_serving()
    old = make_study(database, home, random_document(1))
    serving.add(old)
    new = replaced(database, home, old, random_document(1, fixed={"learning_rate": 1e-2, "epsilon": 1e-7}))
    claim = Ledger(database).claim([new.id], "ann")
    assert claim.study_key == new.key != old.key
    assert serving.get(claim.study_key) is None
    assert serving.try_to_add(new.name, new.key)
    assert serving.get(claim.study_key).objective.study.configuration == new.configuration


def test_a_look_that_is_out_of_date_serves_nothing(database, home, make_serving):
    old = make_study(database, home, random_document(1))
    new = replaced(database, home, old, random_document(1))
    serving = make_serving()
    assert not serving.try_to_add(old.name, old.key)
    assert serving.try_to_add(new.name, new.key)


def test_a_study_that_cannot_be_served_is_left_to_others_and_tried_again_later(database, home, make_serving):
    now, troubles = [0.0], [DataError("films are elsewhere"), None]
    serving = make_serving(lambda study: Prepared(study, troubles.pop(0)), lambda: now[0])
    study = make_study(database, home, random_document(1))
    assert not serving.try_to_add(study.name, study.key)
    assert not serving.try_to_add(study.name, study.key)
    assert len(troubles) == 1
    now[0] = REFUSED_SECONDS
    assert serving.try_to_add(study.name, study.key)
    assert troubles == []


def test_a_study_made_anew_after_it_was_refused_is_tried_at_once(database, home, make_serving):
    troubles = [DataError("films are elsewhere"), None]
    serving = make_serving(lambda study: Prepared(study, troubles.pop(0)))
    old = make_study(database, home, random_document(1))
    assert not serving.try_to_add(old.name, old.key)
    new = replaced(database, home, old, random_document(1))
    assert serving.try_to_add(new.name, new.key)


def test_a_storage_that_is_anothers_is_no_fault_of_the_study(database, home, make_serving):
    study = make_study(database, home, random_document(1))
    with pytest.raises(StorageError, match="not the artifact store"):
        make_serving(location="elsewhere").try_to_add(study.name, study.key)


def test_a_study_that_is_over_is_left_in_step_and_forgotten(database, home, make_serving):
    serving, ledger = make_serving(), Ledger(database)
    study = make_study(database, home, random_document(1))
    serving.add(study)
    claim = ledger.claim([study.id], "ann")
    serving.get(study.key).mirror.start(claim)
    ledger.finish(claim, "complete", 0.5, None, None)
    serving.forget_all_but([study.key])
    assert serving.get(study.key) is not None
    serving.forget_all_but([])
    assert serving.get(study.key) is None
    assert [(trial.state.name, trial.value) for trial in shown(database, study)] == [("COMPLETE", 0.5)]


def test_what_is_left_of_a_deleted_study_does_not_touch_the_new_ones_trials(database, home, make_serving):
    serving = make_serving()
    old = make_study(database, home, random_document(1))
    serving.add(old)
    new = replaced(database, home, old, random_document(1))
    claim = Ledger(database).claim([new.id], "ann")
    serving.add(new)
    serving.get(new.key).mirror.start(claim)
    serving.forget_all_but([new.key])
    serving.settle()
    assert [trial.state.name for trial in shown(database, new)] == ["RUNNING"]


def test_a_study_that_is_deleted_while_a_worker_makes_ready_is_named(database, home):
    study = make_study(database, home, random_document(1))
    delete_study(database, study.name, open_store("storage/artifacts", home))
    with pytest.raises(StudyError, match="regime-1 was deleted"):
        pin_runtime(database, study, {"objective": "STAND-IN prepared"})


def test_the_key_is_the_same_however_it_is_read(database, home):
    study = make_study(database, home, random_document(1))
    assert load_study(database, study.name).key == study.key == Ledger(database).open_studies()[study.name]
    query = sa.select(tables.study.c.id, tables.study.c.created_at)
    assert tuple(database.transact(lambda c: c.execute(query).one())) == study.key
