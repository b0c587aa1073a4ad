"""Resolving a study file into its films, folds and points, and what it inherits from another study.

Nothing is written. ``study create``, ``search --dry-run`` and ``features build`` all begin here, so that they see the
same study.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rust_optuna.config import (
    HYPERPARAMETERS,
    KEYS,
    LATER_KEYS,
    StudyConfiguration,
    StudyKind,
    TrialConfiguration,
    Value,
    misfit,
    plain_values,
)
from rust_optuna.data.check import refuse_problems
from rust_optuna.data.development import (
    DevelopmentSet,
    development_differences,
    development_set,
    development_set_by_source,
)
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
from rust_optuna.learn.weights import meant, trial_weights_scheme, weights_file
from rust_optuna.paths import Home
from rust_optuna.search import design
from rust_optuna.search.adaptive import refuse_missing_sampler
from rust_optuna.search.comparison import (
    best_compared,
    compared_values,
    is_compared,
    refuse_different,
    refuse_unfinished,
)
from rust_optuna.search.fingerprint import Fingerprint
from rust_optuna.search.inheritance import FILMS, WEIGHTS_BYTES, Difference, Inheritance, Settings
from rust_optuna.search.results import Point, best_point, status
from rust_optuna.search.studies import (
    Study,
    expected_parameters,
    find_study,
    load_development,
    load_studies,
    trial_configuration,
)
from rust_optuna.storage.database import Database
from rust_optuna.storage.states import PointState, StudyState
from rust_optuna.study_file import pruner_document, to_document

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PreparedStudy:
    """A study as its file describes it, whether or not it has been created already.

    Args:
        configuration: the study file; where it names no folds or seed, the inherited ones are filled in.
        home: the folder in which relative paths begin.
        known: the study of that name in the database, None if there is none.
        development: the study's films and folds.
        points: the parameters of every point of the known study, or of the whole design if there is no such study. An
            adaptive design's points that are not drawn yet are estimated (`design.estimate`).
        inheritance: what the study takes from another one; None if it takes nothing, or if this is not known yet.
        alternatives: the sets of values that the points may inherit. There is one set, empty if the study inherits
            nothing; if the source study is not done yet, there is one for each point that may become its best.
        undecided: the number of groups of similar patient names that may each be one patient.
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
        """The values that the points inherit. The source study, if there is one, must be done."""
        return self.alternatives[0]

    @property
    def open_source(self) -> str | None:
        """The name of the study whose best point this one takes, if that study is not done yet; else None."""
        return ", ".join(self.configuration.from_best_of) or None if self.inheritance is None else None

    def trials(self, points: Sequence[Mapping[str, Any]]) -> list[list[TrialConfiguration]]:
        """Return the configurations that each point may be trained with, one for each alternative."""
        return [
            [trial_configuration(self.configuration, point, inherited, self.home) for inherited in self.alternatives]
            for point in points
        ]

    def settings(self) -> list[Settings]:
        """Return what another study may inherit from this one: the whole configuration of each point."""
        return [
            settings(self.configuration, point, inherited) for point in self.points for inherited in self.alternatives
        ]

    def weights(self) -> tuple[str, ...]:
        """Return the identities of all weights that the study's points may use, those still to be drawn included.

        Raises:
            WeightsError: the weights file is missing.
        """
        return tuple(sorted({trial_weights_scheme(trial) for (trial, *_) in self._trials_by_weights()}))

    def refuse_missing_weights(self) -> None:
        """Check that the weights files exist, without reading them or using the network.

        Raises:
            MissingWeightsError: a weights file is missing.
        """
        for trials in self._trials_by_weights():
            for trial in trials:
                if trial.backbone.weights not in ("imagenet", "random"):
                    weights_file(trial.backbone)

    def _trials_by_weights(self) -> list[list[TrialConfiguration]]:
        """Return, for each choice of weights in the search space, the configurations of one arbitrary point."""
        axis = self.configuration.search_space.get("weights")
        placeholders = dict.fromkeys(HYPERPARAMETERS, 1)
        choices = [{"weights": choice} for choice in axis.choices] if axis else [{}]
        return self.trials([{**placeholders, **choice} for choice in choices])

    def fingerprint(self) -> Fingerprint:
        """Return everything that the study's numbers depend on.

        Raises:
            WeightsError: the weights file is missing.
        """
        return Fingerprint(self.fingerprint_settings(), self.development.fingerprint(), self.weights())

    def notes(self) -> list[str]:
        """Return notes, one sentence each, on what the user should know before this study runs."""
        notes = []
        if self.inheritance is not None:
            source = self.inheritance.study
            notes += [
                f"the study takes the best point of {source}, but differs from it: {difference.words(source)}"
                for difference in self.inheritance.differences
            ]
        if self.undecided:
            notes.append(
                "some patients' names are so similar that they may belong to one patient, who would then be in several "
                f"folds or on both sides of the split (groups of such names: {self.undecided}): to list them, run "
                "rust-optuna data check MANIFEST"
            )
        folds = self.development.folds
        if missing := labels_missing(folds, self.development.labels):
            notes.append(
                f"at least one fold has no positive film of {', '.join(missing)}: "
                "in all trials, these labels are scored only in the folds that have one"
            )
        sizes = [len(self.development.content) - count for count in np.bincount(folds)]
        if self.configuration.adaptive:
            asking = "points may" if self.configuration.largest("batch_size", self.inherited) > min(sizes) else None
        else:
            large = sum(trial.batch_size > min(sizes) for (trial, *_) in self.trials(self.points))
            asking = f"{large} of {len(self.points)} points" if large else None
        if asking:
            notes.append(
                f"{asking} ask for a batch larger than a training fold ({min(sizes):,} to {max(sizes):,} films): they "
                "use the whole fold as one batch, and both sizes are stored with the trial"
            )
        return notes

    def fingerprint_settings(self) -> dict[str, Any]:
        """Return the settings that the study's numbers depend on: not the number of trials, paths or the lease."""
        configuration = self.configuration
        values = configuration.values({}, self.inherited)
        values.pop("weights")
        for key in LATER_KEYS:
            if values[key] == KEYS[key].default:
                del values[key]
        # The folds of a configuration to compare follow from their number.
        searched = configuration.kind != StudyKind.COMPARISON
        search_space = to_document(configuration)["search_space"] if searched else {}
        return {
            **plain_values(values),
            "sampler": configuration.sampler,
            "sampler_seed": configuration.sampler_seed,
            **pruner_document(configuration.pruner),
            "search_space": {key: value for key, value in search_space.items() if key != "weights"},
            "folds": configuration.folds,
            "seed": configuration.seed,
        }


def missing_files(configuration: StudyConfiguration, home: Home, *, weights: bool = True) -> list[Problem]:
    """Return a problem for each missing file that a study file names.

    No file is read and the network is not used, so this is cheap enough to run before films are hashed.

    Args:
        configuration: the study file.
        home: the folder in which relative paths begin.
        weights: whether to look for weights files too.
    """
    named: list[tuple[str, Value | None]] = []
    if weights:
        searched = configuration.search_space.get("weights")
        named += [("search_space.weights", choice) for choice in (searched.choices if searched else ())]
        named.append(("fixed.weights", configuration.fixed.get("weights")))
        named.append(("model.weights", configuration.model.get("weights")))
    problems = [
        Problem(key, f"{_missing_path(name, home)}{meant(name)}")
        for key, name in named
        if isinstance(name, str) and name not in NAMED_WEIGHTS and not home.resolve(name).is_file()
    ]
    manifest = str(configuration.manifest)
    if home.resolve(manifest).exists():
        return problems
    return [Problem("manifest", _missing_path(manifest, home)), *problems]


def _missing_path(name: str, home: Home) -> str:
    """Return, as the predicate of a sentence about a key, that its file is missing and where it was looked for."""
    return f'is "{name}", which ' + (
        "does not exist" if Path(name).is_absolute() else f"is not in {home.root} (--home)"
    )


def too_many_folds(configuration: StudyConfiguration, manifest: Manifest) -> list[Problem]:
    """Return a problem if a study has more folds than development patients to divide among them."""
    folds, patients = configuration.folds, len({film.patient for film in manifest.part("development")})
    if patients >= folds:
        return []
    count = f"{patients:,} development {'patient' if patients == 1 else 'patients'}"
    message = f"{folds} folds need at least {folds} patients, but {manifest.path} has {count}: use fewer folds"
    return [Problem("cross_validation.folds", f"{message}, or add patients")]


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
        home: the folder in which relative paths begin.
        database: the database that may hold this study and the one it inherits from; None if there is no database.
        progress: called while films are hashed and, once on each machine, decoded.
        earlier: the studies, by name, that run before this one and are not done yet.
        data_root: the folder in which to look for films that are not where the manifest says; None to look nowhere.

    Raises:
        ManifestError: the manifest breaks its rules, is not split yet, or ``data check`` finds problems in it.
        ConfigurationError: a file that the study file names does not exist, there are fewer patients than folds, or a
            hyperparameter has no value.
        StudyError: ``from_best_of`` names a study that does not exist, is not done, or has holes that nobody accepted.
        MissingExtraError: the study's sampler needs a package that is not installed.
        MissingWeightsError: an inherited weights file does not exist.
        WeightsError: the ImageNet weights, by which an inheriting study is compared with its source, cannot be had.
    """
    known = find_study(database, configuration.name) if database else None
    source = next((earlier[name] for name in configuration.from_best_of if earlier and name in earlier), None)
    best: _Best | None = None
    if known is not None:
        inheritance = known.source
        alternatives: list[Mapping[str, Value]] = [known.inherited]
        if inheritance is not None:
            configuration = configuration.with_folds(inheritance.folds, inheritance.seed)
    elif source is not None:
        inheritance = None
        alternatives = [inherited_values(configuration, candidate) for candidate in source.settings()]
        configuration = configuration.with_folds(source.configuration.folds, source.configuration.seed)
    elif configuration.from_best_of:
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
        message = (
            f"none of the {len(manifest.films):,} films was found, the first of them at {manifest.films[0].image}. "
            "If they are in another folder now, name it with --data-root FOLDER"
        )
        raise ManifestError(str(manifest.path), [Problem("image", message)])
    refuse_problems(manifest, index, progress)
    if configuration.kind == StudyKind.SOURCES:
        development = development_set_by_source(manifest, index)
    else:
        development = development_set(manifest, index, folds=configuration.folds, seed=configuration.seed)
    if known is None:
        refuse_missing_sampler(configuration)
    points = expected_parameters(database, known) if database and known else design.estimate(configuration)
    similar_names = len(undecided(manifest.films))
    prepared = PreparedStudy(configuration, home, known, development, points, inheritance, alternatives, similar_names)
    if known is None:
        prepared.refuse_missing_weights()
    if database is not None and best is not None and inheritance is not None:
        differences = _differences(prepared, best, load_development(database, best.study))
        if configuration.kind != StudyKind.SEARCH:
            differences = _refuse_other_data(prepared, best.study, differences)
        return replace(prepared, inheritance=replace(inheritance, differences=differences))
    return prepared


def settings(
    configuration: StudyConfiguration, parameters: Mapping[str, Any], inherited: Mapping[str, Value]
) -> Settings:
    """Return the whole configuration of one point."""
    return Settings(configuration.values(parameters, inherited), configuration.folds, configuration.seed)


def inherited_values(configuration: StudyConfiguration, source: Settings) -> dict[str, Value]:
    """Return the values that a study takes from another's settings: those of every key that its own file leaves out.

    Keys that mean nothing for the study's model are not taken.

    Raises:
        ConfigurationError: a hyperparameter still has no value, or the file sets a key that means nothing for the
            model.
    """
    own_keys = {*configuration.search_space, *configuration.fixed, *configuration.model}
    values = {key: value for key, value in source.values.items() if key not in own_keys}
    model = configuration.values({}, values)
    misfits = {key: misfit(key, model["architecture"], model["train"]) for key in sorted(own_keys)}
    if problems := [Problem(key, reason) for key, reason in misfits.items() if reason is not None]:
        raise ConfigurationError(f"study {configuration.name}", problems)
    values = {key: value for key, value in values.items() if not misfit(key, model["architecture"], model["train"])}
    if open_keys := configuration.open_hyperparameters(values):
        message = f"has no value: neither this study nor {', '.join(configuration.from_best_of)} sets it"
        raise ConfigurationError(f"study {configuration.name}", [Problem(key, message) for key in open_keys])
    return values


@dataclass(frozen=True)
class _Best:
    """The study that another inherits from, and its best point.

    Args:
        study: the study.
        point: its best point; None for a configuration that was compared with others.
        value: the value of that point, or of that configuration.
        settings: what it was trained with.
        candidates: the value of each compared configuration of which this one is the best.
    """

    study: Study
    point: Point | None
    value: float
    settings: Settings
    candidates: Mapping[str, float] = field(default_factory=dict)


def _best_of(database: Database | None, configuration: StudyConfiguration) -> _Best:
    """Return the best point of the study that ``from_best_of`` names; ties go to the lowest point.

    Where it names configurations that were compared with each other, that is the best of them; ties go to the first.
    """
    if database is None:
        names = ", ".join(configuration.from_best_of)
        raise StudyError(
            f"{configuration.name} takes the best point of {names}, but there is no database yet: name the file of "
            f"{names} first"
        )
    studies = [_named_source(database, configuration, name) for name in configuration.from_best_of]
    compared = [study for study in studies if is_compared(study)]
    if len(compared) == len(studies):
        return _best_compared(database, configuration, studies)
    if len(studies) > 1:
        other = next(study.name for study in studies if study not in compared)
        raise StudyError(
            f"{configuration.name} takes the best of {', '.join(configuration.from_best_of)}, but {other} is not one "
            "configuration to compare: only such studies can be listed together"
        )
    (study,), (name,) = studies, configuration.from_best_of
    purpose = f"{configuration.name} takes the best point of {name}"
    if not study.is_search:
        raise StudyError(f"{purpose}, which is not a search: its points are folds, not hyperparameters")
    if study.state != StudyState.DONE:
        raise StudyError(f"{purpose}, which is not done yet: finish it with rust-optuna worker run {name}")
    best = best_point(database, study)
    counts = status(database, study, foreign=False).counts
    if best is None and not counts[PointState.HOLE]:
        raise StudyError(f"{purpose}, whose points were all pruned: give its file a milder [pruner] and another name")
    if best is None:
        ended = "holes or pruned" if counts[PointState.PRUNED] else "holes"
        raise OpenHolesError(
            f"{purpose}, which has no complete point: all its points are {ended}. See why (rust-optuna study show "
            f"{name}), then try them again (rust-optuna study retry {name} --holes, then rust-optuna worker run {name})"
        )
    if holes := status(database, study, foreign=False).open_holes:
        raise OpenHolesError(
            f"{purpose}, which has {holes} hole{'s' if holes > 1 else ''} that nobody accepted: its best point may be "
            f"missing. Try them again (rust-optuna study retry {name} --holes, then rust-optuna worker run {name}) or "
            f"do without them (rust-optuna study accept-holes {name})"
        )
    return _Best(study, best, best.value, settings(study.configuration, best.parameters, study.inherited))


def _named_source(database: Database, configuration: StudyConfiguration, name: str) -> Study:
    """Return a study that ``from_best_of`` names."""
    study = find_study(database, name)
    if study is None:
        names = ", ".join(other.name for other in load_studies(database)) or "none yet"
        raise StudyError(
            f"{configuration.name} takes the best point of {name}, which is not in {database} (its studies: {names}): "
            f"run {name} first"
        )
    return study


def _best_compared(database: Database, configuration: StudyConfiguration, studies: Sequence[Study]) -> _Best:
    """Return the best of configurations that were compared with each other."""
    for study in studies:
        refuse_unfinished(database, study, f"{configuration.name} takes the configuration of {study.name}")
    refuse_different(studies)
    values = compared_values(database, [study.name for study in studies])
    if values is None:
        raise StudyError(f"{configuration.name} takes the best of studies that were deleted in the meantime")
    best = next(study for study in studies if study.name == best_compared(values))
    return _Best(best, None, values[best.name], settings(best.configuration, {}, {}), values)


def _inherit(configuration: StudyConfiguration, best: _Best) -> Inheritance:
    """Return what a study takes from the best point of another; the differences are filled in later."""
    return Inheritance(
        study=best.study.name,
        trial=None if best.point is None else best.point.trial,
        point=None if best.point is None else best.point.number,
        value=best.value,
        values=inherited_values(configuration, best.settings),
        folds=best.settings.folds if "folds" in configuration.left_open else None,
        seed=best.settings.seed if "seed" in configuration.left_open else None,
        objective=best.study.objective,
        candidates=best.candidates,
    )


def _differences(prepared: PreparedStudy, best: _Best, source_set: DevelopmentSet) -> tuple[Difference, ...]:
    """Return the differences between a study and its source, other than the keys that it searches.

    Args:
        prepared: the study.
        best: its source.
        source_set: the source's development set.
    """
    configuration, development = prepared.configuration, prepared.development
    own = {**configuration.model, **configuration.fixed, "folds": configuration.folds, "seed": configuration.seed}
    source = {**best.settings.values, "folds": best.settings.folds, "seed": best.settings.seed}
    differences = [Difference(key, value, source[key]) for key, value in own.items() if value != source[key]]
    same = development.content == source_set.content and development.patients == source_set.patients
    if not same or not np.array_equal(development.labels, source_set.labels):
        differences.append(Difference(FILMS, len(development.content), len(source_set.content)))
    weights, allowed = prepared.weights(), best.study.fingerprint.weights
    if own.get("weights", source["weights"]) == source["weights"] and not {*weights} <= {*allowed}:
        differences.append(Difference(WEIGHTS_BYTES, ", ".join(weights), ", ".join(allowed)))
    # A comparison has more folds and epochs than a search, and only its configuration is taken.
    on_purpose = ("folds", "seed", "epochs") if is_compared(best.study) else ()
    return tuple(difference for difference in differences if difference.key not in on_purpose)


def _refuse_other_data(
    prepared: PreparedStudy, source: Study, differences: Sequence[Difference]
) -> tuple[Difference, ...]:
    """Return the unintended differences of an evaluation from its source, or refuse the evaluation.

    Its folds, seed and number of epochs differ on purpose.

    Raises:
        FingerprintError: the films, labels, patients or weights are not those of the search.
    """
    for difference in differences:
        if difference.key in (FILMS, WEIGHTS_BYTES):
            raise FingerprintError(
                f"{source.name} cannot be evaluated here: {difference.words(source.name)}. Restore the manifest, the "
                "films or the weights that it was created with",
                public=f"{source.name} cannot be evaluated: other films, labels, patients or weights",
            )
    return tuple(d for d in differences if d.key not in ("folds", "seed", "epochs"))


def compare(database: Database, prepared: PreparedStudy, known: Study) -> None:
    """Check that a study file would create the same study as the one in the database.

    Raises:
        FingerprintError: it would not; the message names the differences.
        StudyError: the file asks for more points than the study has.
        WeightsError: the weights file is missing.
    """
    differences = known.fingerprint.other_settings(prepared.fingerprint_settings())
    subject = "settings"
    remedy = f"Give the study another name, or delete the old one: rust-optuna study delete {known.name}"
    if prepared.development.fingerprint() != known.fingerprint.films:
        index, stored = FilmIndex(prepared.home.film_index), load_development(database, known)
        films = development_differences(prepared.development, stored, index, prepared.home.root)
        if not differences:
            subject, remedy = (
                "films or labels",
                "Restore the manifest or the film to go on, or give the study another name",
            )
            films = films or ["the films and labels are the same, but the folds differ"]
        elif films:
            subject = "settings, films or labels"
        differences += films
    # The weights come last because they may have to be downloaded.
    if not differences and prepared.weights() != known.fingerprint.weights:
        subject = "weights"
        differences = ["the file's bytes, or the way in which random weights are drawn, have changed"]
    if differences:
        raise FingerprintError(
            f"Study {known.name} in {database} was created with other {subject}: {'; '.join(differences)}. {remedy}",
            public=f"Study {known.name} was created with other settings, films or weights",
        )
    asked, existing = prepared.configuration.n_trials, known.configuration.n_trials
    if asked is not None and existing is not None and asked > existing:
        raise StudyError(
            f"{known.name} has {existing} points, but its file asks for {asked}: to add them, run "
            f"rust-optuna study extend {known.name} --trials {asked}"
        )
