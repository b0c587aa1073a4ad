import codecs
import math
import string
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rust_optuna.config import KEYS, Pruner, Range, StudyConfiguration, StudyKind
from rust_optuna.errors import ConfigurationError
from rust_optuna.search import design
from rust_optuna.study_file import parse_study, read_study_file, to_document
from tests.studies import (
    REPOSITORY,
    adaptive_document,
    configuration,
    grid_document,
    one_document,
    random_document,
    toml,
)


def problems(document):
    """Return the problems of a document as where → what."""
    with pytest.raises(ConfigurationError) as raised:
        parse_study(document, "study.toml")
    assert str(raised.value).startswith(f"{len(raised.value.problems)} problem")
    assert "study.toml" in str(raised.value)
    found = {problem.where: problem.what for problem in raised.value.problems}
    assert all(f"{where} " in str(raised.value) and what in str(raised.value) for where, what in found.items())
    return found


def test_regime_1_is_the_published_random_search():
    regime = read_study_file(REPOSITORY / "studies" / "regime_1.toml")
    assert (regime.name, regime.sampler, regime.n_trials, design.size(regime)) == ("regime-1", "random", 100, 100)
    assert regime.search_space == {
        "batch_size": Range("int", low=16, high=2048),
        "dropout_rate": Range("float", low=0.0, high=0.5),
    }
    assert regime.fixed == {"learning_rate": 1e-3, "epsilon": 1e-7}
    assert (regime.folds, regime.values({})["epochs"], regime.sampler_seed, regime.seed) == (6, 20, 1337, 1337)
    assert (regime.values({})["weights"], regime.values({})["output"]) == ("imagenet", "mixed10")


def test_regime_2_is_the_published_grid_on_the_best_of_regime_1():
    regime = read_study_file(REPOSITORY / "studies" / "regime_2.toml")
    assert (regime.name, regime.sampler, regime.n_trials, design.size(regime)) == ("regime-2", "grid", None, 32)
    assert regime.search_space["learning_rate"].choices == (1e-4, 1e-3, 1e-2, 1e-1)
    assert regime.search_space["epsilon"].choices == tuple(float(f"1e-{digits}") for digits in range(8, 0, -1))
    assert (regime.from_best_of, regime.fixed) == (("regime-1",), {})
    # The model and the folds are Regime I's.
    assert (regime.model, regime.left_open) == ({}, {"folds", "seed"})


@pytest.mark.parametrize(
    ("section", "left_open"),
    [({}, {"folds", "seed"}), ({"folds": 6}, {"seed"}), ({"seed": 1337}, {"folds"}), ({"folds": 6, "seed": 2}, set())],
)
def test_folds_and_seed_are_the_files_own_where_it_names_them_even_by_their_defaults(section, left_open):
    document = random_document(cross_validation=section)
    assert configuration(document).left_open == left_open
    # What a database holds is what the study was made with.
    assert parse_study(to_document(configuration(document)), "stored", stored=True).left_open == set()


def test_a_file_is_read_as_its_document(tmp_path):
    path = tmp_path / "study.toml"
    path.write_text(toml(random_document()))
    assert read_study_file(path) == configuration(random_document())


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_a_file_is_read_whatever_an_editor_puts_before_it_and_between_its_lines(tmp_path, mark, end):
    path = tmp_path / "study.toml"
    path.write_bytes(mark + toml(random_document()).encode().replace(b"\n", end))
    assert read_study_file(path) == configuration(random_document())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        (b"name = ", "is not valid TOML"),
        (b"name = '\xff'", r"is not UTF-8 text \(byte 0xff at 8\): save it as UTF-8"),
        ("name = 'a'".encode("utf-16"), "is not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_toml_is_named(tmp_path, content, said):
    path = tmp_path / "study.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=said) as raised:
        read_study_file(path)
    assert str(path) in str(raised.value)
    assert raised.value.exit_code == 2


def test_every_problem_is_reported_at_once():
    document = random_document(
        name="a/b",
        colour="red",
        lease_seconds=0,
        sampler={"type": "random", "seed": -1, "n_trials": "many", "speed": 3},
        search_space={
            "batch_size": {"type": "float", "low": 16, "high": 2048},
            "dropout_rate": {"type": "float", "low": 0.5, "high": 0.5},
            "momentum": [0.9],
            "pooling": ["max", "median"],
            "flips": [],
            "output": "mixed10",
            "standardize": [True, True],
            "image_size": {"type": "int", "low": 0, "high": 299, "width": 3},
        },
        fixed={"learning_rate": 0.0, "epsilon": "small", "momentum": 0.9},
        model={"weights": 3, "depth": 4},
        cross_validation={"folds": 1, "epochs": 2.5, "seed": True},
    )
    assert set(problems(document)) == {
        "name",
        "colour",
        "lease_seconds",
        "sampler.seed",
        "sampler.n_trials",
        "sampler.speed",
        "search_space.batch_size.type",
        "search_space.dropout_rate",
        "search_space.momentum",
        "search_space.pooling",
        "search_space.flips",
        "search_space.output",
        "search_space.standardize",
        "search_space.image_size.low",
        "search_space.image_size.width",
        "fixed.learning_rate",
        "fixed.epsilon",
        "fixed.momentum",
        "model.weights",
        "model.depth",
        "cross_validation.folds",
        "cross_validation.epochs",
        "cross_validation.seed",
    }


def test_limits_are_told_whole():
    found = problems(random_document(sampler={"type": "random", "seed": 2**32, "n_trials": 2_000_000}))
    assert found["sampler.seed"].endswith("it must be at least 0 and at most 4,294,967,295")
    assert found["sampler.n_trials"].endswith("it must be at least 1 and at most 1,000,000")


@pytest.mark.parametrize("section", ["sampler", "search_space"])
@pytest.mark.parametrize("contents", [None, {}, "a word"], ids=["missing", "empty", "no section"])
def test_a_section_that_must_be_there_is_missed(section, contents):
    document = random_document()
    del document[section]
    if contents is not None:
        document[section] = contents
    assert any(section in where for where in problems(document))


def test_a_key_that_is_fixed_and_searched_is_a_problem_whatever_else_is_wrong_with_it():
    document = random_document(fixed={"learning_rate": 1e-3, "epsilon": 1e-7, "batch_size": 32})
    assert "searched too" in problems(document)["fixed.batch_size"]
    document["search_space"]["batch_size"] = []
    assert set(problems(document)) == {"fixed.batch_size", "search_space.batch_size"}


def test_a_key_that_stands_in_its_section_and_is_searched_is_a_problem():
    document = random_document(model={"weights": "random", "output": "mixed9"})
    document["search_space"]["output"] = ["mixed8", "mixed10"]
    assert "name it once" in problems(document)["model.output"]


def test_a_hyperparameter_without_a_value_is_named():
    assert set(problems(random_document(fixed={"learning_rate": 1e-3}))) == {"epsilon"}


def test_a_hyperparameter_may_be_left_to_the_study_that_is_built_on():
    assert configuration(grid_document()).from_best_of == ("regime-1",)


@pytest.mark.parametrize(
    ("named", "what"),
    [
        ([], "neither the name of a study nor a list of names"),
        (["a", 3], "neither the name of a study nor a list of names"),
        (["a", ""], "neither the name of a study nor a list of names"),
        (3, "neither the name of a study nor a list of names"),
        (["a", "b", "a"], "names a study twice"),
        (["a", "regime-2"], "names this study itself"),
    ],
)
def test_what_is_no_list_of_studies_to_build_on_is_named(named, what):
    assert what in problems(grid_document(fixed={"from_best_of": named}))["fixed.from_best_of"]


BASELINES = REPOSITORY / "studies" / "baselines"


@pytest.mark.parametrize("path", sorted(BASELINES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_baseline_is_one_configuration_as_published(path):
    baseline = read_study_file(path)
    assert (baseline.kind, baseline.name) == (StudyKind.COMPARISON, path.stem.replace("_", "-"))
    assert baseline.fixed == {"batch_size": 128, "dropout_rate": 0.0, "learning_rate": 1e-3, "epsilon": 1e-7}
    assert (baseline.folds, baseline.values({})["epochs"], baseline.seed) == (10, 50, 1337)
    assert design.draw(baseline) == [{"fold": fold} for fold in [point["fold"] for point in design.draw(baseline)]]
    assert sorted(point["fold"] for point in design.draw(baseline)) == list(range(10))


def test_a_configuration_to_compare_survives_the_way_to_the_database_and_back():
    made = configuration(one_document())
    kept = parse_study(to_document(made), "stored", stored=True)
    assert (kept.kind, kept.search_space, kept.fixed) == (StudyKind.COMPARISON, made.search_space, made.fixed)


def test_a_configuration_to_compare_names_all_four_hyperparameters_itself():
    found = problems(one_document(fixed={"learning_rate": 1e-3}))
    assert set(found) == {"batch_size", "dropout_rate", "epsilon"}
    assert all("neither [sampler] nor [search_space]" in what for what in found.values())
    found = problems(one_document(fixed={"from_best_of": "a"}))
    assert set(found) == {"fixed.from_best_of"}
    assert "goes with a search only" in found["fixed.from_best_of"]


@pytest.mark.parametrize("section", ["sampler", "search_space"])
def test_a_search_without_one_of_its_two_sections_is_not_taken_for_a_configuration(section):
    document = random_document()
    del document[section]
    assert problems(document)[f"[{section}]"] == "is missing"


def test_a_study_cannot_be_built_on_itself():
    assert set(problems(grid_document(name="regime-1"))) == {"fixed.from_best_of"}


def test_a_grid_takes_neither_a_number_of_trials_nor_an_interval():
    document = grid_document(sampler={"type": "grid", "n_trials": 32})
    document["search_space"]["epsilon"] = {"type": "float", "low": 1e-8, "high": 1e-1}
    assert set(problems(document)) == {"sampler.n_trials", "search_space.epsilon"}


@pytest.mark.parametrize(
    ("axis", "where"),
    [
        ({"type": "int", "low": 64, "high": 16}, "search_space.batch_size"),
        ({"type": "int", "low": 16}, "search_space.batch_size.high"),
        ({"low": 16, "high": 64}, "search_space.batch_size.type"),
        ({"type": "int", "low": 16, "high": 64, "step": 0}, "search_space.batch_size.step"),
        ({"type": "int", "low": 16, "high": 64, "step": 2, "log": True}, "search_space.batch_size.log"),
        ({"type": "int", "low": 16, "high": 64, "log": 1}, "search_space.batch_size.log"),
        ({"type": "int", "low": 16.5, "high": 64}, "search_space.batch_size.low"),
        ([16, 16], "search_space.batch_size"),
        ([16, 2.7], "search_space.batch_size"),
        (["16"], "search_space.batch_size"),
        (16, "search_space.batch_size"),
    ],
)
def test_a_range_that_makes_no_sense_is_named(axis, where):
    document = random_document()
    document["search_space"]["batch_size"] = axis
    assert set(problems(document)) == {where}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_bound_that_is_not_finite_is_refused(value):
    document = random_document(fixed={"epsilon": 1e-7})
    document["search_space"]["learning_rate"] = {"type": "float", "low": 1e-4, "high": value}
    assert "search_space.learning_rate.high" in problems(document)


LENET = {"architecture": "lenet_1998", "train": "all"}


@pytest.mark.parametrize(
    ("model", "where", "what"),
    [
        ({"architecture": "lenet_1998"}, "model.architecture", 'no frozen backbone: set train = "all"'),
        *(
            ({**LENET, key: value}, f"model.{key}", "whose layers are fixed: leave it out")
            for key, value in {
                "weights": "random",
                "weights_seed": 1,
                "output": "mixed9",
                "pooling": "max",
                "features": "cached",
                "extraction_precision": "float32",
                "standardize": False,
                "hidden_units": [4],
            }.items()
        ),
        *(
            ({"train": "all", key: value}, f"model.{key}", "no frozen backbone: leave it out")
            for key, value in {
                "weights_seed": 1,
                "features": "live",
                "extraction_precision": "bfloat16",
                "standardize": True,
            }.items()
        ),
        ({"micro_batch": 8}, "model.micro_batch", 'only train = "all" divides its batches into micro-batches'),
        ({"train": "all", "micro_batch": 0}, "model.micro_batch", "at least 1"),
        ({"train": "both"}, "model.train", "one of head, all"),
        ({"architecture": "resnet"}, "model.architecture", "one of inception_v3, lenet_1998"),
    ],
)
def test_what_means_nothing_for_an_architecture_is_refused(model, where, what):
    found = problems(random_document(model=model))
    assert found.keys() == {where}
    assert what in found[where]


def test_what_means_nothing_is_refused_wherever_it_stands():
    document = random_document(model=LENET)
    document["search_space"]["pooling"] = ["max", "average"]
    document["fixed"]["hidden_units"] = [4]
    assert set(problems(document)) == {"search_space.pooling", "fixed.hidden_units"}


@pytest.mark.parametrize("key", ["architecture", "train"])
def test_what_decides_which_keys_mean_something_cannot_be_searched(key):
    document = random_document()
    document["search_space"][key] = [KEYS[key].default]
    assert "is not a key that can be searched" in problems(document)[f"search_space.{key}"]


@pytest.mark.parametrize(
    "model",
    [
        {**LENET, "image_size": 75, "bits": 12, "resize": "pad", "flips": "none", "training_precision": "bfloat16"},
        {"train": "all", "weights": "random", "output": "mixed7", "pooling": "average", "hidden_units": [8]},
        {"train": "all", "weights": "imagenet", "micro_batch": 128},
        {"train": "head", "architecture": "inception_v3"},
    ],
)
def test_what_fits_together_is_read_and_survives_the_way_to_the_database(model):
    document = random_document(model=model)
    study = parse_study(document, "file")
    stored = parse_study(to_document(study), "stored", stored=True)
    values = stored.values({})
    assert {key: list(values[key]) if isinstance(values[key], tuple) else values[key] for key in model} == model
    assert to_document(stored) == to_document(study)


def test_the_manifest_must_be_named_in_a_file_and_is_not_kept_in_a_database():
    document = random_document()
    assert "manifest" not in to_document(configuration(document))
    del document["manifest"]
    assert set(problems(document)) == {"manifest"}


NAMES = st.text(string.ascii_letters + string.digits, min_size=1, max_size=10)
FLOATS = st.floats(1e-9, 0.9, allow_nan=False)
CHOICES = {
    "batch_size": st.integers(1, 4096),
    "dropout_rate": FLOATS,
    "learning_rate": FLOATS,
    "epsilon": FLOATS,
    "output": st.sampled_from([f"mixed{block}" for block in range(11)]),
    "pooling": st.sampled_from(["max", "average"]),
    "resize": st.sampled_from(["stretch", "pad"]),
    "standardize": st.booleans(),
    "image_size": st.integers(75, 400),
    "epochs": st.integers(1, 50),
}


PRUNERS = [
    Pruner("median", n_startup_trials=3, n_warmup_steps=2, interval_steps=4),
    Pruner("hyperband", min_resource=2, reduction_factor=5),
]


def lists(name):
    return st.lists(CHOICES[name], min_size=1, max_size=4, unique=True).map(
        lambda values: Range("categorical", choices=tuple(values))
    )


@st.composite
def intervals(draw, name):
    numbers = st.integers(1, 4096) if KEYS[name].type is int else FLOATS
    low, high = sorted(draw(st.lists(numbers, min_size=2, max_size=2, unique=True)))
    spacing = draw(st.sampled_from(["plain", "log", "step"]))
    return Range(
        KEYS[name].type.__name__,
        low=low,
        high=high,
        log=spacing == "log",
        step=draw(numbers) if spacing == "step" else None,
    )


@st.composite
def studies(draw):
    grid = draw(st.booleans())
    searched = draw(st.lists(st.sampled_from(sorted(CHOICES)), min_size=1, max_size=4, unique=True))
    space = {}
    for name in searched:
        numeric = not grid and name in ("batch_size", "dropout_rate", "learning_rate", "epsilon")
        space[name] = draw(st.one_of(lists(name), intervals(name)) if numeric else lists(name))
    rest = [name for name in CHOICES if name not in space]
    fixed = {name: draw(CHOICES[name]) for name in rest if not KEYS[name].section or draw(st.booleans())}
    sections = {name: draw(CHOICES[name]) for name in rest if name not in fixed and draw(st.booleans())}
    if draw(st.booleans()):
        sections["hidden_units"] = tuple(draw(st.lists(st.integers(1, 99), min_size=1, max_size=3)))
    samplers = ["random", "tpe", "nsga-ii"] + ["cma-es"] * any(axis.low is not None for axis in space.values())
    return StudyConfiguration(
        name=draw(NAMES),
        manifest=None,
        sampler="grid" if grid else draw(st.sampled_from(samplers)),
        sampler_seed=draw(st.integers(0, 2**32 - 1)),
        n_trials=None if grid else draw(st.integers(1, 1000)),
        search_space=space,
        fixed=fixed,
        from_best_of=draw(st.lists(NAMES.map(lambda name: f"{name}-other"), max_size=2, unique=True).map(tuple)),
        model=sections,
        folds=draw(st.integers(2, 20)),
        seed=draw(st.integers(0, 2**32 - 1)),
        lease_seconds=draw(st.integers(2, 999)),
        pruner=draw(st.none() | st.sampled_from(PRUNERS)),
    )


@given(studies())
def test_a_study_survives_the_way_to_the_database_and_back(study):
    document = to_document(study)
    assert parse_study(document, "stored", stored=True) == study
    assert to_document(parse_study(document, "stored", stored=True)) == document


@given(studies())
def test_a_study_survives_the_way_to_a_file_and_back(study):
    document = tomllib.loads(toml({**to_document(study), "manifest": "manifest.csv"}))
    assert parse_study(document, "file").search_space == study.search_space
    assert parse_study(document, "file").fixed == study.fixed
    assert parse_study(document, "file").pruner == study.pruner


def test_a_misspelt_key_is_named_beside_the_right_one():
    with pytest.raises(ConfigurationError, match=r"fixed\.learning_rat +is not a key.*\(is learning_rate meant\?\)"):
        parse_study({"fixed": {"learning_rat": 1e-3}}, "study.toml")
    with pytest.raises(ConfigurationError, match=r"search_space\.Batch-Size .*\(is batch_size meant\?\)"):
        parse_study({"search_space": {"Batch-Size": [1]}}, "study.toml")
    with pytest.raises(ConfigurationError, match=r"serach_space +is not a key here \(is \[search_space\] meant\?\)"):
        parse_study({"serach_space": {}}, "study.toml")


def test_a_folder_is_said_to_be_one(tmp_path):
    with pytest.raises(ConfigurationError, match=r"file  is a folder, not a study file"):
        read_study_file(tmp_path)


@pytest.mark.parametrize("sampler", ["tpe", "cma-es", "nsga-ii"])
def test_an_adaptive_study_lists_the_values_that_decide_about_features(sampler):
    """Features are computed before any point is drawn."""
    space = {
        "image_size": {"type": "int", "low": 75, "high": 299},
        "dropout_rate": {"type": "float", "low": 0, "high": 0.5},
    }
    document = adaptive_document(
        5, sampler, search_space=space, fixed={"batch_size": 8, "learning_rate": 1, "epsilon": 1}
    )
    with pytest.raises(ConfigurationError, match=f"search_space.image_size  {sampler} needs a list of values here"):
        parse_study(document, "a test")
    document["search_space"] = {**space, "image_size": [75, 299]}
    assert parse_study(document, "a test").adaptive


def test_an_adaptive_study_says_how_many_points_it_has():
    document = adaptive_document()
    del document["sampler"]["n_trials"]
    with pytest.raises(ConfigurationError, match=r"sampler.n_trials +is missing"):
        parse_study(document, "a test")


def test_cma_es_needs_a_range():
    fixed = {"dropout_rate": 0.1, "learning_rate": 1e-3, "epsilon": 1e-7}
    document = adaptive_document(5, "cma-es", search_space={"batch_size": [2, 4]}, fixed=fixed)
    with pytest.raises(ConfigurationError, match=r"\[search_space\]  cma-es draws from ranges alone"):
        parse_study(document, "a test")


def test_a_study_without_a_pruner_is_written_as_before():
    assert "pruner" not in to_document(configuration(random_document(pruner={"type": "none"})))


def test_the_largest_value_of_a_key_is_that_of_its_axis_or_the_one_it_has():
    space = {"batch_size": {"type": "int", "low": 2, "high": 12}, "epochs": [3, 9, 4], "dropout_rate": [0.1]}
    study = configuration(random_document(search_space=space, cross_validation={}))
    assert [study.largest(name) for name in ("batch_size", "epochs", "learning_rate")] == [12, 9, 1e-3]
    assert configuration(random_document()).largest("epochs") == 2
