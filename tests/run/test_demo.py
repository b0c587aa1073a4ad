from rust_optuna.run.demo import Demo, write_studies
from rust_optuna.study_file import read_study_file


def test_the_demos_weights_and_layer_stand_in_its_first_study_and_the_second_inherits_them(home):
    first, second = map(read_study_file, write_studies(Demo(weights="random"), home))
    assert (first.model["weights"], first.model["output"]) == ("random", "mixed0")
    assert (second.from_best_of, second.model, second.left_open) == (first.name, {}, {"folds", "seed"})
    first, _ = map(read_study_file, write_studies(Demo(weights="imagenet"), home))
    assert (first.model["weights"], first.model["output"]) == ("imagenet", "mixed3")


def test_the_path_of_the_demos_weights_may_hold_any_character(home):
    weights = str(home.root / 'the "best"\\of\nRöntgen \x7f.h5')
    first, _ = map(read_study_file, write_studies(Demo(weights=weights), home))
    assert first.model["weights"] == weights
