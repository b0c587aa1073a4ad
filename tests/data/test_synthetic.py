import hashlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from rust_optuna.data.manifest import CORTICES, read_manifest
from rust_optuna.data.synthetic.cohort import SUBSCORE_COUNTS, draw_cohort, shuffle_readings
from rust_optuna.data.synthetic.draw import synthesize
from rust_optuna.data.synthetic.film import HEIGHT, WIDTH, draw_film
from rust_optuna.errors import DataError


def bytes_of(directory):
    """Return the content hash of every file below ``directory``."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Films of a few patients, drawn in this process."""
    directory = tmp_path_factory.mktemp("drawn")
    synthesize(directory, patients=8, seed=5, processes=1)
    return directory


def test_manifest_reads_back_as_the_cohort(drawn):
    films = read_manifest(drawn / "manifest.csv", require_files=True).films
    cohort = draw_cohort(8, seed=5)
    assert [film.image.name for film in films] == [film.name for film in cohort]
    assert [(film.patient, film.visit, film.view) for film in films] == [
        (film.patient_id, str(film.visit), film.view) for film in cohort
    ]
    noted = [{c: s for c, s in zip(CORTICES, film.subscores, strict=True) if s is not None} for film in films]
    assert noted == [film.readable for film in cohort]
    assert {film.split for film in films} == {""}


def test_films_are_grey_pngs_marked_synthetic(drawn):
    for path in (drawn / "films").iterdir():
        with Image.open(path) as image:
            assert (image.mode, image.size, image.format) == ("L", (WIDTH, HEIGHT), "PNG")
            assert image.info["Title"] == "SYNTHETIC"
            assert path.name.startswith("synthetic-")


def test_marker_is_the_same_on_every_film(drawn):
    corners = []
    for path in (drawn / "films").iterdir():
        with Image.open(path) as image:
            corners.append(np.asarray(image)[-20:, :64] == 255)
    always_white = np.logical_and.reduce(corners)
    assert 150 < always_white.sum() < 400  # nine letters, not a white corner


def test_same_bytes_whatever_the_number_of_processes(drawn, tmp_path):
    synthesize(tmp_path, patients=8, seed=5, processes=2)
    assert bytes_of(tmp_path) == bytes_of(drawn)


def test_another_seed_gives_other_films(drawn, tmp_path):
    synthesize(tmp_path, patients=2, seed=6, processes=1)
    assert not set(bytes_of(tmp_path).values()) & set(bytes_of(drawn).values())


def test_progress_counts_every_film(tmp_path):
    calls = []
    synthesize(tmp_path, patients=2, seed=0, progress=lambda *counts: calls.append(counts))
    total = len(draw_cohort(2, seed=0))
    assert calls == [(drawn, total) for drawn in range(1, total + 1)]


def test_refuses_a_directory_that_holds_a_manifest(drawn):
    before = bytes_of(drawn)
    with pytest.raises(DataError, match="already exists"):
        synthesize(drawn, patients=1, seed=0)
    assert bytes_of(drawn) == before


@pytest.mark.parametrize("wrong", [{"patients": 0}, {"seed": -1}, {"contrast": -0.5}, {"contrast": float("nan")}])
def test_refuses_arguments_out_of_range(tmp_path, wrong):
    with pytest.raises(DataError, match="must"):
        synthesize(tmp_path / "new", **({"patients": 1, "seed": 0} | wrong))
    assert not (tmp_path / "new").exists()


def test_an_interrupted_run_leaves_no_manifest(tmp_path):
    def interrupt(drawn, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path, patients=2, seed=0, processes=1, progress=interrupt)
    assert not (tmp_path / "manifest.csv").exists()


def test_shuffled_scores_keep_the_films_and_the_counts_of_each_view(drawn, tmp_path):
    synthesize(tmp_path, patients=8, seed=5, processes=1, shuffle_scores=True)
    changed = {name for name, content in bytes_of(tmp_path).items() if bytes_of(drawn)[name] != content}
    assert changed == {"manifest.csv"}
    true, shuffled = (read_manifest(folder / "manifest.csv").films for folder in (drawn, tmp_path))
    assert Counter((film.view, film.subscores) for film in true) == Counter(
        (film.view, film.subscores) for film in shuffled
    )


def test_shuffled_scores_agree_with_the_true_ones_by_chance_only():
    films = draw_cohort(2000, seed=0)
    pairs = [
        (film.readable["medial"], reading["medial"])
        for film, reading in zip(films, shuffle_readings(films, seed=0), strict=True)
        if "medial" in film.readable and "medial" in reading
    ]
    assert abs(np.corrcoef(np.array(pairs).T)[0, 1]) < 0.08


def test_cohort_has_the_published_frequencies():
    films = [film for seed in range(4) for film in draw_cohort(1207, seed)]
    assert len(films) / 4 == pytest.approx(2936, rel=0.03)
    assert sum(film.view == "anteroposterior" for film in films) / 4 == pytest.approx(1493, rel=0.03)
    readable = Counter(len(film.readable) for film in films)
    assert readable[0] / 4 == pytest.approx(252, rel=0.12)
    assert readable[1] / 4 == pytest.approx(242, rel=0.12)
    for cortex, published in SUBSCORE_COUNTS.items():
        counts = Counter(film.readable.get(cortex) for film in films)
        assert [counts[score] / 4 for score in (1, 2, 3, 4)] == pytest.approx(list(published), rel=0.12)


def test_small_cohorts_have_the_same_frequencies_on_average():
    films = [film for seed in range(400) for film in draw_cohort(3, seed)]
    counts = Counter(film.readable.get("medial") for film in films)
    shares = np.array([counts[score] for score in (1, 2, 3, 4)]) / sum(counts[score] for score in (1, 2, 3, 4))
    assert shares == pytest.approx(np.array(SUBSCORE_COUNTS["medial"]) / sum(SUBSCORE_COUNTS["medial"]), abs=0.04)


def test_healing_agrees_between_cortices_and_rises_over_visits():
    films = draw_cohort(1207, seed=0)
    scores = np.array([film.subscores for film in films])
    assert np.corrcoef(scores.T)[0, 1] > 0.6
    first = [film.subscores[0] for film in films if film.visit == 1]
    later = [film.subscores[0] for film in films if film.visit >= 2]
    assert np.mean(later) > np.mean(first) + 0.4


def test_whether_a_cortex_is_hidden_does_not_depend_on_its_score():
    films = draw_cohort(5000, seed=0)
    hidden = np.array([film.hidden[0] for film in films])
    scores = np.array([film.subscores[0] for film in films])
    assert abs(scores[hidden].mean() - scores[~hidden].mean()) < 0.1


def with_scores(film, first, second):
    return type(film)(film.patient, film.visit, film.view, (first, second), film.hidden)


def test_without_contrast_films_carry_no_trace_of_the_scores():
    for place, film in enumerate(draw_cohort(4, seed=1)):
        drawn = [draw_film(with_scores(film, *scores), seed=1, place=place, contrast=0) for scores in ((1, 1), (3, 4))]
        assert np.array_equal(*drawn)


def test_contrast_changes_nothing_far_from_the_fracture():
    film = with_scores(draw_cohort(1, seed=1)[0], 2, 3)
    plain, exaggerated = (draw_film(film, seed=1, place=0, contrast=contrast).astype(float) for contrast in (0.0, 3.0))
    difference = np.abs(plain - exaggerated)
    assert difference[:40].mean() < 5  # gamma alone, which answers to the whole film
    assert difference.max() > 60


def summaries(patients, contrast, seed):
    """Return (films, 4) view, mean and variance of each film, (films, 16) subscores, and (films,) patients.

    Films with a hidden cortex are left out: the bar that hides it shows, and rightly so.
    """
    films = [film for film in draw_cohort(patients, seed) if not any(film.hidden)]
    rows, labels = [], np.zeros((len(films), 16), int)
    for place, film in enumerate(films):
        levels = draw_film(film, seed=seed, place=place, contrast=contrast) / 255.0
        rows.append([film.view == "lateral", film.view != "lateral", levels.mean(), levels.var()])
        for cortex, score in film.readable.items():
            labels[place, 4 * CORTICES.index(cortex) + score - 1] = 1
    return np.array(rows, float), labels, np.array([film.patient for film in films])


def gain_over_view(model, rows, labels, patients, folds=5):
    """Return by how much ``model`` on view, mean and variance beats the label frequencies of each view.

    Out-of-fold scores of patient-grouped folds, macro average precision over the sixteen subscores. Even noise gains
    some 0.03 with so few films: frequencies tie, and ties have the lowest average precision to be expected.
    """
    scores, baseline = np.zeros(labels.shape), np.zeros(labels.shape)
    for fold in range(folds):
        test = patients % folds == fold
        scaler = StandardScaler().fit(rows[~test])
        train, seen = scaler.transform(rows[~test]), scaler.transform(rows[test])
        for label in range(labels.shape[1]):
            scores[test, label] = model.fit(train, labels[~test, label]).predict_proba(seen)[:, 1]
            for view in (0, 1):
                baseline[test & (rows[:, 0] == view), label] = labels[~test & (rows[:, 0] == view), label].mean()
    macro = [average_precision_score(labels, s, average="macro") for s in (scores, baseline)]
    return macro[0] - macro[1]


@pytest.mark.parametrize("contrast", [pytest.param(1.0, marks=pytest.mark.long), 4.0])
def test_mean_and_variance_of_a_film_do_not_tell_its_scores(contrast):
    """Of ordinary films and of very clear ones no more than of films that show neither callus nor fracture line."""
    blank, seen = (summaries(80, each, seed=3) for each in (0.0, contrast))
    for model in (LogisticRegression(), DecisionTreeClassifier(max_depth=3, min_samples_leaf=15, random_state=0)):
        chance = gain_over_view(model, *blank)
        assert chance < 0.06
        assert gain_over_view(model, *seen) < chance + 0.03


def test_films_that_another_call_left_are_not_mixed_with_new_ones(tmp_path):
    def interrupt(drawn, total):
        raise KeyboardInterrupt

    folder = tmp_path / "a folder"
    with pytest.raises(KeyboardInterrupt):
        synthesize(folder, patients=8, seed=0, processes=1, progress=interrupt)
    left = next((folder / "films").iterdir())
    left.rename(left.with_name("synthetic-0009-v1-ap.png"))
    with pytest.raises(DataError, match=r"another file, synthetic-0009-v1-ap.*rm -r '"):
        synthesize(folder, patients=8, seed=0, processes=1)
    assert [path.name for path in (folder / "films").iterdir()] == ["synthetic-0009-v1-ap.png"]
