"""A study file resolved: its films, folds and points, and what it takes from another study. Nothing is written.

``study create``, ``search --dry-run`` and ``features build`` all begin here, so that they see the same study.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rust_optuna.config import HYPERPARAMETERS, KEYS, StudyConfiguration, TrialConfiguration, Value, plain_values
from rust_optuna.data.check import refuse_problems
from rust_optuna.data.development import DevelopmentSet, development_differences, development_set
from rust_optuna.data.film_index import FilmIndex
from rust_optuna.data.folds import labels_missing
from rust_optuna.data.manifest import Manifest, read_manifest
from rust_optuna.data.patients import undecided
from rust_optuna.data.relocation import relocated
from rust_optuna.errors import (
    ConfigurationError,
    FingerprintError,
    ManifestError,
    OpenHolesError,
    Problem,
    StudyError,
)
from rust_optuna.learn.weights import NAMED as NAMED_WEIGHTS
from rust_optuna.learn.weights import meant, weights_file, weights_scheme
from rust_optuna.paths import Home
from rust_optuna.search import design
from rust_optuna.search.inheritance import FILMS, WEIGHTS_BYTES, Difference, Inheritance, Settings
from rust_optuna.search.results import Point, best_point, status
from rust_optuna.search.studies import (
    Study,
    find_study,
    load_development,
    load_parameters,
    load_studies,
    trial_configuration,
)
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import StudyState
from rust_optuna.study_file import to_document, toml_value

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PreparedStudy:
    """A study as its file describes it, whether it was created already or not.

    Args:
        configuration: the file; folds and seed are those inherited where it names none.
        home: where relative paths begin.
        known: the study of that name in the database, None if there is none.
        development: its films and folds.
        points: the parameters of every point: the known study's, else the whole design.
        inheritance: what it takes from another study; None for nothing, or nothing that is known yet.
        alternatives: the values that its points may inherit: one set of them, which is empty for a study that inherits
            nothing; as many as its source may bring where that is not done yet.
        undecided: how many groups of its patients' names may be one patient's each.
    """

    configuration: StudyConfiguration
    home: Home
    known: Study | None
    development: DevelopmentSet
    points: Sequence[Mapping[str, Any]]
    inheritance: Inheritance | None
    alternatives: Sequence[Mapping[str, Value]]
    undecided: int = 0

    @property
    def inherited(self) -> Mapping[str, Value]:
        """What its points inherit, of a study whose source is done."""
        return self.alternatives[0]

    @property
    def open_source(self) -> str | None:
        """The study that it takes its values from, where that is not done yet."""
        return self.configuration.from_best_of if self.inheritance is None else None

    def trials(self, points: Sequence[Mapping[str, Any]]) -> list[list[TrialConfiguration]]:
        """Return, for each point, what it may be trained with: one configuration, or one for each alternative."""
        return [
            [trial_configuration(self.configuration, point, each, self.home) for each in self.alternatives]
            for point in points
        ]

    def settings(self) -> list[Settings]:
        """Return what a study may inherit from this one: of each point, the whole configuration."""
        return [
            settings(self.configuration, point, inherited) for point in self.points for inherited in self.alternatives
        ]

    def weights(self) -> list[str]:
        """Return what the weights are that its points may use, whatever points it has or will have.

        Raises:
            WeightsError: the weights file is missing.
        """
        return sorted({weights_scheme(trial.backbone) for (trial, *_) in self._trials_of_each_weights()})

    def refuse_missing_weights(self) -> None:
        """Look whether the weights files are there, without reading them or asking the network.

        Raises:
            MissingWeightsError: one is not.
        """
        for trials in self._trials_of_each_weights():
            for trial in trials:
                if trial.backbone.weights not in ("imagenet", "random"):
                    weights_file(trial.backbone)

    def _trials_of_each_weights(self) -> list[list[TrialConfiguration]]:
        axis = self.configuration.search_space.get("weights")
        some = dict.fromkeys(HYPERPARAMETERS, 1)
        choices = [{"weights": choice} for choice in axis.choices] if axis else [{}]
        return self.trials([{**some, **choice} for choice in choices])

    def fingerprint(self) -> dict[str, Any]:
        """Return all that its numbers depend on.

        Raises:
            WeightsError: the weights file is missing.
        """
        return {
            "settings": self.fingerprint_settings(),
            "films": self.development.fingerprint(),
            "weights": self.weights(),
        }

    def notes(self) -> list[str]:
        """Return what a user should know about this study before it runs."""
        notes = []
        if self.inheritance is not None:
            source = self.inheritance.study
            notes += [
                f"differs from {source}, whose best point it takes: {difference.words(source)}"
                for difference in self.inheritance.differences
            ]
        if self.undecided:
            notes.append(
                "some patients' names are alike and may be one patient's, who would then be in several folds or on "
                f"both sides of the split (groups of such names: {self.undecided}): rust-optuna data check MANIFEST "
                "lists them"
            )
        folds = self.development.folds
        if missing := labels_missing(folds, self.development.labels):
            notes.append(
                f"some fold has no positive film of {', '.join(missing)}: "
                "these labels are scored in the folds that have one, alike for all trials"
            )
        sizes = [len(self.development.content) - count for count in np.bincount(folds)]
        large = sum(trial.batch_size > min(sizes) for (trial, *_) in self.trials(self.points))
        if large:
            notes.append(
                f"{large} of {len(self.points)} points ask for a batch larger than a training fold ({min(sizes):,} to "
                f"{max(sizes):,} films): there the whole fold is one batch; both sizes are stored with the trial"
            )
        return notes

    def fingerprint_settings(self) -> dict[str, Any]:
        """Return the settings that its numbers depend on: not the number of trials, paths or the lease."""
        configuration = self.configuration
        values = configuration.values({}, self.inherited)
        values.pop("weights")
        if values["bits"] == KEYS["bits"].default:
            del values["bits"]  # studies from before there was this setting keep their fingerprint
        search_space = to_document(configuration)["search_space"]
        return {
            **plain_values(values),
            "sampler": configuration.sampler,
            "sampler_seed": configuration.sampler_seed,
            "search_space": {key: value for key, value in search_space.items() if key != "weights"},
            "folds": configuration.folds,
            "seed": configuration.seed,
        }


def missing_files(configuration: StudyConfiguration, home: Home, *, weights: bool = True) -> list[Problem]:
    """Return one problem for each file that a study file names and that is not there.

    Nothing is read and the network is not asked: this is for before films are hashed.

    Args:
        configuration: the study file.
        home: where relative paths begin.
        weights: also look for weights files.
    """
    named: list[tuple[str, Value | None]] = []
    if weights:
        searched = configuration.search_space.get("weights")
        named += [("search_space.weights", choice) for choice in (searched.choices if searched else ())]
        named.append(("fixed.weights", configuration.fixed.get("weights")))
        named.append(("model.weights", configuration.model.get("weights")))
    problems = [
        Problem(where, f"{_not_there(name, home)}{meant(name)}")
        for where, name in named
        if isinstance(name, str) and name not in NAMED_WEIGHTS and not home.resolve(name).is_file()
    ]
    manifest = str(configuration.manifest)
    return problems if home.resolve(manifest).exists() else [Problem("manifest", _not_there(manifest, home)), *problems]


def _not_there(name: str, home: Home) -> str:
    """Say of a file that a study file names where it was looked for."""
    return f'is "{name}", which ' + (
        "does not exist" if Path(name).is_absolute() else f"is not in {home.root} (--home)"
    )


def too_many_folds(configuration: StudyConfiguration, manifest: Manifest) -> list[Problem]:
    """Return the problem that a study has more folds than patients to divide among them, if so."""
    folds, patients = configuration.folds, len({film.patient for film in manifest.part("development")})
    if patients >= folds:
        return []
    have = f"{patients:,} development {'patient' if patients == 1 else 'patients'}"
    what = f"{folds} folds need at least {folds} patients, and {manifest.path} has {have}: lower it, or add patients"
    return [Problem("cross_validation.folds", what)]


def prepare(
    configuration: StudyConfiguration,
    home: Home,
    database: Database | None,
    *,
    progress: Progress | None = None,
    earlier: Mapping[str, PreparedStudy] | None = None,
    data_root: Path | None = None,
) -> PreparedStudy:
    """Resolve a study file.

    Args:
        configuration: the study file.
        home: where relative paths begin.
        database: where the study may be already, and where the one is that it takes values from; None for nowhere.
        progress: called while films are hashed and, once on a machine, decoded.
        earlier: studies that will be run before this one and are not done yet.
        data_root: where films are looked for that are not where the manifest says; None for nowhere.

    Raises:
        ManifestError: the manifest breaks its rules, is not split yet, or ``data check`` finds problems in it.
        ConfigurationError: a file that it names is not there, there are too few patients for its folds, or a
            hyperparameter has no value.
        StudyError: ``from_best_of`` names a study that is not there, not done, or has holes that nobody accepted.
        MissingWeightsError: a weights file that it inherits is not there.
        WeightsError: ImageNet weights, which a study that inherits is compared by, could not be had.
    """
    known = find_study(database, configuration.name) if database else None
    source = (earlier or {}).get(configuration.from_best_of or "")
    best: _Best | None = None
    if known is not None:
        inheritance = known.source
        alternatives: list[Mapping[str, Value]] = [known.inherited]
        if inheritance is not None:
            configuration = configuration.with_folds(inheritance.folds, inheritance.seed)
    elif source is not None:
        inheritance = None
        alternatives = [inherited_values(configuration, theirs) for theirs in source.settings()]
        configuration = configuration.with_folds(source.configuration.folds, source.configuration.seed)
    elif configuration.from_best_of is not None:
        best = _best_of(database, configuration)
        inheritance = _inherit(configuration, best)
        alternatives = [inheritance.values]
        configuration = configuration.with_folds(inheritance.folds, inheritance.seed)
    else:
        inheritance, alternatives = None, [{}]
    problems = missing_files(configuration, home, weights=known is None)
    path = home.resolve(configuration.manifest or "")
    if path.exists():
        manifest = read_manifest(path, require_split=True)
        problems += too_many_folds(configuration, manifest)
    if problems:
        raise ConfigurationError(configuration.source, problems)
    index = FilmIndex(home.film_index)
    if data_root is not None:
        manifest = relocated(manifest, index, data_root, progress)
    if not any(film.image.is_file() for film in manifest.films):
        what = (
            f"none of the {len(manifest.films):,} films is there, the first: {manifest.films[0].image}: No such file. "
            "If they lie in another folder now, name it: --data-root FOLDER"
        )
        raise ManifestError(str(manifest.path), [Problem("image", what)])
    refuse_problems(manifest, index, progress)
    development = development_set(manifest, index, folds=configuration.folds, seed=configuration.seed)
    points = load_parameters(database, known.id) if database and known else design.draw(configuration)
    doubts = len(undecided(manifest.films))
    prepared = PreparedStudy(configuration, home, known, development, points, inheritance, alternatives, doubts)
    if known is None:
        prepared.refuse_missing_weights()
    if database is not None and best is not None and inheritance is not None:
        differences = _differences(prepared, best, load_development(database, best.study))
        return replace(prepared, inheritance=replace(inheritance, differences=differences))
    return prepared


def settings(
    configuration: StudyConfiguration, parameters: Mapping[str, Any], inherited: Mapping[str, Value]
) -> Settings:
    """Return the whole configuration of one point."""
    return Settings(configuration.values(parameters, inherited), configuration.folds, configuration.seed)


def inherited_values(configuration: StudyConfiguration, theirs: Settings) -> dict[str, Value]:
    """Return what a study takes of another's configuration: all that it says nothing about itself.

    Raises:
        ConfigurationError: a hyperparameter still has no value.
    """
    ours = {*configuration.search_space, *configuration.fixed, *configuration.model}
    values = {key: value for key, value in theirs.values.items() if key not in ours}
    if open_keys := configuration.open_hyperparameters(values):
        what = f"has no value: neither here nor in {configuration.from_best_of}"
        raise ConfigurationError(f"study {configuration.name}", [Problem(key, what) for key in open_keys])
    return values


@dataclass(frozen=True)
class _Best:
    """The study that another inherits from, and its best point."""

    study: Study
    point: Point
    settings: Settings


def _best_of(database: Database | None, configuration: StudyConfiguration) -> _Best:
    """Return the best point of the study that ``from_best_of`` names; ties go to the lowest point."""
    name = str(configuration.from_best_of)
    takes = f"{configuration.name} takes the best of {name}"
    if database is None:
        raise StudyError(f"{takes}, and there is no database yet: name that study's file before this one's")
    study = find_study(database, name)
    if study is None:
        there = ", ".join(other.name for other in load_studies(database)) or "none yet"
        raise StudyError(f"{takes}, which is not in {database} (there are: {there}): search that study first")
    if study.state != StudyState.DONE:
        raise StudyError(f"{takes}, which is not done: run rust-optuna worker run {name} until it is")
    best = best_point(database, study)
    if best is None:
        raise OpenHolesError(
            f"{takes}, which has no complete point: all it has are holes. See why (rust-optuna study show {name}), "
            f"then try them again (rust-optuna study retry {name} --holes, then rust-optuna worker run {name})"
        )
    if holes := status(database, study, foreign=False).open_holes:
        raise OpenHolesError(
            f"{takes}, which has {holes} hole{'s' if holes > 1 else ''} that nobody accepted: its best point may be "
            f"missing. Try them again (rust-optuna study retry {name} --holes, then rust-optuna worker run {name}) or "
            f"do without them (rust-optuna study accept-holes {name})"
        )
    return _Best(study, best, settings(study.configuration, best.parameters, study.inherited))


def _inherit(configuration: StudyConfiguration, best: _Best) -> Inheritance:
    """Return what a study takes of the best point of another, its differences left out."""
    return Inheritance(
        study=best.study.name,
        trial=best.point.trial,
        point=best.point.number,
        value=best.point.value,
        values=inherited_values(configuration, best.settings),
        folds=best.settings.folds if "folds" in configuration.left_open else None,
        seed=best.settings.seed if "seed" in configuration.left_open else None,
        objective=best.study.objective,
    )


def _differences(prepared: PreparedStudy, best: _Best, theirs: DevelopmentSet) -> tuple[Difference, ...]:
    """Return in what a study differs from its source, but for what it searches."""
    configuration, ours = prepared.configuration, prepared.development
    here = {**configuration.model, **configuration.fixed, "folds": configuration.folds, "seed": configuration.seed}
    there = {**best.settings.values, "folds": best.settings.folds, "seed": best.settings.seed}
    found = [Difference(key, value, there[key]) for key, value in here.items() if value != there[key]]
    same = ours.content == theirs.content and ours.patients == theirs.patients
    if not same or not np.array_equal(ours.labels, theirs.labels):
        found.append(Difference(FILMS, len(ours.content), len(theirs.content)))
    weights, allowed = prepared.weights(), best.study.fingerprint["weights"]
    if here.get("weights", there["weights"]) == there["weights"] and not {*weights} <= {*allowed}:
        found.append(Difference(WEIGHTS_BYTES, ", ".join(weights), ", ".join(allowed)))
    return tuple(found)


def compare(database: Database, prepared: PreparedStudy, known: Study) -> None:
    """Check that a study file would create this very study.

    Raises:
        FingerprintError: it would not; the message says in what they differ.
        StudyError: it asks for more points than the study has.
        WeightsError: the weights file is missing.
    """
    other = _other_settings(prepared.fingerprint_settings(), known.fingerprint["settings"])
    what, remedy = "settings", f"Give the study another name, or delete that one: rust-optuna study delete {known.name}"
    if prepared.development.fingerprint() != known.fingerprint["films"]:
        index, theirs = FilmIndex(prepared.home.film_index), load_development(database, known)
        films = development_differences(prepared.development, theirs, index, prepared.home.root)
        if not other:
            what, remedy = (
                "films or labels",
                "Restore the manifest or the film to go on, or give the study another name",
            )
            films = films or ["the films and labels are the same, and the folds differ"]
        elif films:
            what = "settings, films or labels"
        other += films
    # Last, for they may have to be downloaded.
    if not other and prepared.weights() != known.fingerprint["weights"]:
        what, other = "weights", ["the file's bytes, or the way in which random ones are drawn, are not the same"]
    if other:
        raise FingerprintError(
            f"Study {known.name} in {database} was created with other {what}: {'; '.join(other)}. {remedy}",
            public=f"Study {known.name} was created with other settings, films or weights",
        )
    asked, has = prepared.configuration.n_trials, known.configuration.n_trials
    if asked is not None and has is not None and asked > has:
        raise StudyError(
            f"{known.name} has {has} points, its file asks for {asked}: "
            f"rust-optuna study extend {known.name} --trials {asked}"
        )


def _other_settings(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """Return in words which settings of a file differ from those of the study of its name."""
    ours, theirs = _by_key(ours), _by_key(theirs)
    pairs = {key: (ours.get(key), theirs.get(key)) for key in sorted({*ours, *theirs})}
    return [
        f"{key} is {toml_value(here)} in the file and {toml_value(there)} in the study"
        for key, (here, there) in pairs.items()
        if here != there
    ]


def _by_key(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a fingerprint by the keys that a study file has for them."""
    searched = {f"search_space.{key}": axis for key, axis in settings["search_space"].items()}
    renamed = {"sampler": "sampler.type", "sampler_seed": "sampler.seed"}
    others = {renamed.get(key, key): value for key, value in settings.items() if key != "search_space"}
    return {"bits": KEYS["bits"].default, **others, **searched}
