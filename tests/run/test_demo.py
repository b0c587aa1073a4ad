import pytest

from rust_optuna.run.demo import Demo, write_studies
from rust_optuna.study_file import read_study_file
from tests.cli.test_main import invoke
from tests.data.films import make_manifest


def test_the_demos_weights_and_layer_stand_in_its_first_study_and_the_second_inherits_them(home):
    first, second = map(read_study_file, write_studies(Demo(seed=1, weights="random"), home))
    assert (first.model["weights"], first.model["output"]) == ("random", "mixed0")
    assert (second.from_best_of, second.model, second.left_open) == ((first.name,), {}, {"folds", "seed"})
    first, _ = map(read_study_file, write_studies(Demo(seed=1, weights="imagenet"), home))
    assert (first.model["weights"], first.model["output"]) == ("imagenet", "mixed3")


def test_the_path_of_the_demos_weights_may_hold_any_character(home):
    weights = str(home.root / 'the "best"\\of\nRöntgen \x7f.h5')
    first, _ = map(read_study_file, write_studies(Demo(seed=1, weights=weights), home))
    assert first.model["weights"] == weights


def drawn(home, **settings):
    """Let the films of a demo stand in the home, and return that demo."""
    films = make_manifest(home.demo)
    made = Demo(patients=len({film.patient for film in films.films}), **{"seed": 1} | settings)
    (home.demo / "recipe.txt").write_text(made.recipe)
    return made


@pytest.mark.parametrize("weights", ["none.h5", "imagenett"])
def test_weights_that_are_not_there_are_refused_before_a_film_is_drawn(home, weights):
    done = invoke("--home", home.root, "demo", "--weights", weights)
    assert (done.exit_code, f"There is no weights file {home.root / weights}" in done.output) == (2, True)
    assert ("(is imagenet meant?)" in done.output) == (weights == "imagenett")
    assert not home.storage.exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"contrast": 1.0},
            "were drawn with contrast 1.0, for pretrained weights; this call needs 2.0, for random weights",
        ),
        ({"seed": 7}, "were drawn with seed 7; this call needs seed 1"),
        ({"shuffle_scores": True}, "have shuffled scores; this call needs scores that they show"),
        ({}, "are of 12 patients; this call needs 300"),
    ],
)
def test_films_of_another_demo_are_refused_with_what_differs(home, monkeypatch, settings, said):
    drawn(home, **settings)
    monkeypatch.chdir(home.root)
    done = invoke("demo", "--weights", "random")
    assert done.exit_code == 1
    assert said in done.output
    assert ": remove them (rm -r storage/demo) to let this command draw new ones" in done.output


def test_films_without_a_recipe_are_no_demos(home):
    make_manifest(home.demo)
    done = invoke("--home", home.root, "demo", "--weights", "random")
    assert (done.exit_code, "are not known to be a demo's" in done.output) == (1, True)
