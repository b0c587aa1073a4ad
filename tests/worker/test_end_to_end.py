"""Studies that train end to end, from the study file to the stored report."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from rust_optuna.errors import ConfigurationError, FingerprintError, OutOfMemoryError, StudyError
from rust_optuna.learn.cross_validation import cross_validate, load_fold_curve
from rust_optuna.learn.fold_report import FoldReport
from rust_optuna.learn.trial_report import TrialReport
from rust_optuna.search.evaluation import evaluation_of, study_to_evaluate
from rust_optuna.search.ledger import Ledger
from rust_optuna.search.mirror import Mirror
from rust_optuna.search.pins import FeaturePins
from rust_optuna.search.studies import load_development, load_parameters, load_studies
from rust_optuna.storage.artifacts import download, open_store
from rust_optuna.worker.folds import ComparedFoldObjective
from rust_optuna.worker.objective import CrossValidationObjective
from tests.cli.test_main import invoke
from tests.studies import make_study, one_document, random_document, run_study

LENET = {"architecture": "lenet_1998", "train": "all", "image_size": 75, "micro_batch": 4}
INCEPTION = {"train": "all", "weights": "random", "output": "mixed0", "image_size": 75, "hidden_units": [8]}

HEAD = {"architecture": "inception_v3", "train": "head", "weights": "random"}


def document(**model):
    contents = random_document(1, name="whole", model={**LENET, **model})
    contents["search_space"] = {"learning_rate": [1e-3]}
    contents["fixed"] = {"epsilon": 1e-7, "batch_size": 6, "dropout_rate": 0.2}
    return {**contents, "sampler": {"type": "grid"}}


class Ran:
    """A point that ran, and what its program was given."""

    def __init__(self, database, home, contents, *, make=CrossValidationObjective):
        from rust_optuna.learn.end_to_end_program import Program

        self.database, self.home = database, home
        self.study = make_study(database, home, contents)
        self.development = load_development(database, self.study)
        self.store = open_store(database.artifacts(), home)
        pins = FeaturePins(database, self.study)
        self.objective = make(self.study, self.development, home, self.store, pins=pins)
        self.objective.prepare(load_parameters(database, self.study.id))
        self.objective.pin()
        ledger = Ledger(database)
        self.claim = ledger.claim([self.study.id], "ann")
        self.curve, self.advances, self.parts = [], [], []
        train = Program.train

        def watched(program, state, settings, part):
            self.parts.append((type(program._network).__name__, part.films, part.batch, len(part.images)))
            return train(program, state, settings, part)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Program, "train", watched)
            self.trial = Mirror(database, self.study).start(self.claim)
            self.outcome = self.run()
        ledger.finish(self.claim, "complete", self.outcome.value, self.outcome.report, self.outcome.artifact)

    def run(self):
        return self.objective(
            self.claim,
            self.trial,
            lambda epoch, value: self.curve.append(value),
            lambda: self.advances.append(1),
        )


@pytest.mark.tensorflow
def test_a_point_is_cross_validated_and_reports_like_any_other(sqlite, home):
    ran = Ran(sqlite, home, document())
    report = ran.outcome.report
    assert (report.value, report.curve) == (max(ran.curve), tuple(ran.curve))
    assert (len(ran.curve), report.batch_size.trained, report.micro_batch) == (2, (6, 6, 6), 4)
    assert report.weights == "lenet-1998-glorot-uniform-1"
    assert json.loads(json.dumps(report.to_json())) == TrialReport.from_json(report.to_json()).to_json()
    # Batches of 6 in two parts, and a short last one in as many as it needs.
    films = [int((ran.development.folds != fold).sum()) for fold in range(3)]
    batches = [min(6, count - start) for count in films for start in range(0, count, 6)]
    parts = [("LeNet", min(4, batch - start), batch, 4) for batch in batches for start in range(0, batch, 4)]
    assert sorted(ran.parts) == sorted(2 * parts)
    assert len(ran.advances) == len(ran.parts) + 2 * 3 * 2 + 2 * 3
    assert ran.objective.runtime()["end_to_end"] == 1
    assert not (home.storage / "features").exists() or not [*home.features.glob("*/shard-*")]
    [pixels] = home.pixels.glob("*.npy")
    assert np.load(pixels).shape == (20, 75, 75)
    # A point that was killed and is run again has the same bits, in another process's objective too.
    again = ran.run()
    assert (again.report.curve, again.report.fold_values) == (report.curve, report.fold_values)
    # So has one whose folds train one after the other, as on one core.
    trial = ran.study.trial_configuration(ran.claim.parameters, home)
    source = CrossValidationObjective(ran.study, ran.development, home, ran.store).source(trial)
    for threads in (1, 3):
        alone = cross_validate(
            ran.development, source, trial, seed=5, point=0, on_epoch=lambda *_: None, threads=threads
        )
        assert alone.report.threads.folds == threads
        assert (alone.report.curve, alone.report.fold_values) == (report.curve, report.fold_values)


@pytest.mark.tensorflow
def test_what_is_asked_for_is_what_is_trained(sqlite, home):
    """The keys that `tests/worker/test_trained_values.py` leaves to this module."""
    lenet = Ran(sqlite, home, {**document(micro_batch=5), "name": "lenet"})
    assert {(name, capacity) for name, _, _, capacity in lenet.parts} == {("LeNet", 5)}
    contents = document()
    contents["model"] = {**INCEPTION, "micro_batch": 7}
    contents["cross_validation"] = {"folds": 2, "epochs": 1}
    inception = Ran(sqlite, home, {**contents, "name": "inception"})
    assert {(name, capacity) for name, _, _, capacity in inception.parts} == {("Inception", 7)}
    report = inception.outcome.report
    assert (report.micro_batch, report.weights) == (7, "random-he-normal-1")
    # One file of films for both, which differ in everything but the films.
    assert len([*home.pixels.glob("*.npy")]) == 1
    assert report.features_sha256 == lenet.outcome.report.features_sha256
    contents["model"] = {**INCEPTION, "train": "head"}
    head = Ran(sqlite, home, {**contents, "name": "head"})
    assert not head.parts


@pytest.mark.tensorflow
def test_a_fold_is_a_point_and_its_scores_are_kept(sqlite, home, tmp_path):
    ran = Ran(sqlite, home, one_document(name="one", model=LENET), make=ComparedFoldObjective)
    report, fold = ran.outcome.report, int(ran.claim.parameters["fold"])
    assert FoldReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert (report.curve, report.value) == (tuple(ran.curve), ran.curve[-1])
    assert (report.epoch, report.micro_batch, report.weights) == (2, 4, "lenet-1998-glorot-uniform-1")
    assert len(ran.advances) > len(ran.parts)
    download(ran.store, report.artifact, tmp_path / "fold.npz")
    kept = load_fold_curve(tmp_path / "fold.npz")
    left_out = ran.development.folds == fold
    assert kept.films.tolist() == np.array(ran.development.content)[left_out].tolist()
    np.testing.assert_array_equal(kept.labels, ran.development.labels[left_out])
    assert (kept.value, kept.curve) == (report.value, report.curve)
    again = ran.run().report
    assert (again.curve, again.curve_16) == (report.curve, report.curve_16)


@pytest.mark.tensorflow
def test_a_point_out_of_memory_fails_with_its_micro_batch(sqlite, home, monkeypatch):
    import tensorflow as tf

    from rust_optuna.learn.end_to_end_program import Program

    ran = Ran(sqlite, home, document())
    tries = []

    def train(*given):
        tries.append(1)
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(Program, "train", train)
    monkeypatch.setenv("RUST_OPTUNA_CORES", "1")
    with pytest.raises(OutOfMemoryError, match=r"in micro-batches of 4.*smaller micro_batch.*OOM when allocating"):
        ran.run()
    assert len(tries) <= 2  # one for each fold that trained at once
    assert ran.objective._micro_batch.limit is None


@pytest.mark.tensorflow
def test_another_worker_with_other_films_is_refused(sqlite, home):
    ran = Ran(sqlite, home, document())
    pixels = ran.objective.source(ran.study.trial_configuration(ran.claim.parameters, home))
    images = np.array(pixels.images)
    images[3, :10] ^= 1
    [(path, (backbone, _))] = ran.objective._films.items()
    ran.objective._films[path] = backbone, replace(pixels, images=images, sha256="other")
    with pytest.raises(FingerprintError, match="not those of its other workers"):
        ran.objective.pin()


def test_it_cannot_be_evaluated_and_is_told_in_one_line(sqlite, sqlite_url, home):
    study = make_study(sqlite, home, document())
    with pytest.raises(StudyError, match="heads only: it cannot be evaluated"):
        evaluation_of(sqlite, study, "manifest.csv", folds=3, seeds=1)
    with pytest.raises(StudyError, match="no search to evaluate"):
        study_to_evaluate(load_studies(sqlite))
    done = invoke("--home", home.root, "--storage", sqlite_url, "evaluate", "--study", "whole")
    assert done.exit_code == 1
    assert 'whole trains its whole network (train = "all")' in done.output


def test_what_means_nothing_for_an_inherited_architecture_is_refused(sqlite, home):
    run_study(sqlite, home, {**document(), "name": "first"})
    contents = {
        "name": "second",
        "manifest": "manifest.csv",
        "sampler": {"type": "grid"},
        "search_space": {"epsilon": [1e-7, 1e-3]},
        "fixed": {"from_best_of": "first"},
    }
    with pytest.raises(ConfigurationError, match=r"output +means nothing with architecture"):
        make_study(sqlite, home, {**contents, "model": {"output": "mixed4"}})
    second = make_study(sqlite, home, contents)
    assert {key: second.inherited[key] for key in LENET} == LENET
    assert second.end_to_end
    assert not {"weights", "output", "features"} & {*second.inherited}
    # A head on a frozen backbone is another model, for which other keys mean something.
    head = make_study(sqlite, home, {**contents, "name": "head", "model": {**HEAD, "output": "mixed4"}})
    assert (head.end_to_end, "micro_batch" in head.inherited) == (False, False)


def test_what_means_nothing_for_a_model_is_not_shown(sqlite, home):
    frozen = make_study(sqlite, home, random_document(name="frozen"))
    assert not {"architecture", "train", "micro_batch"} & {*frozen.own_values}
    whole = make_study(sqlite, home, document())
    assert {key: whole.own_values[key] for key in LENET} == LENET
    assert not {"weights", "weights_seed", "output", "pooling", "hidden_units", "features"} & {*whole.own_values}


@pytest.mark.tensorflow
def test_films_are_looked_for_below_the_data_root(sqlite, home, tmp_path):
    study = make_study(sqlite, home, document())
    shutil.move(home.root / "films", tmp_path / "elsewhere")
    development, store = load_development(sqlite, study), open_store(sqlite.artifacts(), home)
    told = []
    objective = CrossValidationObjective(
        study,
        development,
        home,
        store,
        data_root=tmp_path / "elsewhere",
        progress=lambda *films: told.append(films),
    )
    objective.prepare(load_parameters(sqlite, study.id))
    assert told[-1] == (20, 20)
    # Once they are decoded, no film is needed.
    shutil.rmtree(tmp_path / "elsewhere")
    CrossValidationObjective(study, development, home, store).prepare(load_parameters(sqlite, study.id))
