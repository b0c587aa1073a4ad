import numpy as np

from rust_optuna.data.views import infer_mapping

ANTEROPOSTERIOR, LATERAL = "anteroposterior", "lateral"


def test_the_published_mapping_is_read_as_it_is():
    mapping = infer_mapping([ANTEROPOSTERIOR, LATERAL], np.array([[0, 0, 1, 1], [1, 1, 0, 0]]))
    assert mapping.cortices == {ANTEROPOSTERIOR: ("anterior", "posterior"), LATERAL: ("medial", "lateral")}
    assert mapping.contradictions == ()


def test_the_minority_is_the_contradiction():
    views = [ANTEROPOSTERIOR, ANTEROPOSTERIOR, ANTEROPOSTERIOR, LATERAL]
    mapping = infer_mapping(views, np.array([[1, 0, 0, 0]] * 4))
    assert mapping.cortices[ANTEROPOSTERIOR] == ("medial",)
    (found,) = mapping.contradictions
    assert (found.cortex, found.view, found.films) == ("medial", LATERAL, (3,))


def test_where_the_views_are_even_all_their_films_are_named():
    mapping = infer_mapping([ANTEROPOSTERIOR, LATERAL, LATERAL], np.array([[1, 0, 0, 0]] * 2 + [[0] * 4]))
    (found,) = mapping.contradictions
    assert found.films == (0, 1)


def test_a_cortex_without_scores_belongs_to_no_view():
    mapping = infer_mapping([ANTEROPOSTERIOR], np.array([[1, 0, 0, 0]]))
    assert mapping.cortices == {ANTEROPOSTERIOR: ("medial",), LATERAL: ()}


def test_no_films_have_no_mapping():
    mapping = infer_mapping([], np.zeros((0, 4)))
    assert mapping.cortices == {ANTEROPOSTERIOR: (), LATERAL: ()}
