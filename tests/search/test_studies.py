from dataclasses import replace

import pytest

from rust_optuna.errors import StudyError
from rust_optuna.search.studies import cached_backbones, find_study, load_studies, load_study, trial_configuration
from tests.studies import configuration, grid_document, make_study, random_document


def test_a_study_is_read_back_as_it_was_created(database, home):
    document = random_document(model={"weights": "random", "hidden_units": [8, 4]}, lease_seconds=30)
    study = load_study(database, make_study(database, home, document).name)
    assert study.configuration == replace(configuration(document), manifest=None)
    assert (study.state, study.source, study.runtime, study.stand_in) == ("open", None, None, None)


def test_a_study_that_is_not_there_is_missed_with_a_list_of_those_that_are(database, home):
    with pytest.raises(StudyError, match="there are: none yet"):
        load_study(database, "regime-9")
    make_study(database, home)
    with pytest.raises(StudyError, match=r"No study 'regime-9' in .*there are: regime-1"):
        load_study(database, "regime-9")
    assert find_study(database, "regime-9") is None


def test_studies_are_listed_oldest_first(database, home):
    for name in ("zebra", "ant"):
        make_study(database, home, random_document(2, name=name))
    assert [study.name for study in load_studies(database)] == ["zebra", "ant"]


@pytest.mark.parametrize(("weights", "absolute"), [("imagenet", False), ("random", False), ("folder/own.h5", True)])
def test_a_weights_file_lies_below_the_home(home, weights, absolute):
    study = configuration(random_document(model={"weights": weights}))
    trial = trial_configuration(study, {"batch_size": 4, "dropout_rate": 0.1}, {}, home)
    assert trial.backbone.weights == (str(home.root / weights) if absolute else weights)


def test_each_backbone_is_named_once_and_only_where_features_are_cached(home):
    space = {"output": ["mixed9", "mixed10"], "epsilon": [1e-7, 1e-5], "features": ["cached", "live"]}
    study = configuration(grid_document(search_space=space))
    points = [
        {"output": output, "epsilon": epsilon, "features": features}
        for output in space["output"]
        for epsilon in space["epsilon"]
        for features in space["features"]
    ]
    assert [each.output for each in cached_backbones(study, points, {}, home)] == ["mixed9", "mixed10"]
    live = [point for point in points if point["features"] == "live"]
    assert cached_backbones(study, live, {}, home) == []
