"""Study files: conversion from TOML to ``StudyConfiguration`` and back, reporting all problems of a file at once."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rust_optuna.config import (
    ADAPTIVE,
    FOLD_KEYS,
    FOLDS,
    HYPERPARAMETERS,
    KEYS,
    LEASE_SECONDS,
    PRUNER_OPTIONS,
    SAMPLERS,
    SEED,
    UNSEARCHED,
    Key,
    Pruner,
    Range,
    StudyConfiguration,
    StudyKind,
    TrialConfiguration,
    Value,
    misfit,
    plain,
    plain_values,
)
from rust_optuna.errors import ConfigurationError, PathError, Problem
from rust_optuna.spelling import nearest

SECTIONS = ("sampler", "pruner", "search_space", "fixed", "model", "cross_validation")
TOP_LEVEL = ("name", "manifest", "lease_seconds")
ONE_CONFIGURATION = "a file with neither [sampler] nor [search_space] is one configuration, for rust-optuna compare"
LONGEST_STUDY_NAME = 100
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_STUDY_NAME - 1}}}")


def read_study_file(path: Path) -> StudyConfiguration:
    """Read and validate a study file.

    Raises:
        ConfigurationError: with every problem found, each with its key.
    """
    try:
        # Notepad puts a byte-order mark in front of UTF-8, which tomllib rejects.
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigurationError(str(path), [Problem("file", "does not exist")]) from None
    except UnicodeDecodeError as error:
        description = f"is not UTF-8 text (byte {error.object[error.start]:#04x} at {error.start}): save it as UTF-8"
        raise ConfigurationError(str(path), [Problem("file", description)]) from None
    except IsADirectoryError:
        raise ConfigurationError(str(path), [Problem("file", "is a folder, not a study file (STUDY.toml)")]) from None
    except OSError as error:
        raise ConfigurationError(str(path), [Problem("file", f"cannot be read: {error.strerror or error}")]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(str(path), [Problem("file", f"is not valid TOML: {error}")]) from None
    return parse_study(document, str(path))


def parse_study(document: Mapping[str, Any], source: str, *, stored: bool = False) -> StudyConfiguration:
    """Validate a study given as nested dictionaries.

    Args:
        document: the study file's contents.
        source: the name of the study file in messages.
        stored: whether the document comes from the database, which does not keep the manifest's path.

    Raises:
        ConfigurationError: with every problem found.
    """
    reader = _Reader(document)
    configuration = reader.read(stored)
    if reader.problems or configuration is None:
        raise ConfigurationError(source, reader.problems)
    return replace(configuration, source=source)


def to_document(configuration: StudyConfiguration) -> dict[str, Any]:
    """Return the nested dictionaries that ``parse_study(…, stored=True)`` turns back into the same configuration.

    Ranges are written out in full and the manifest's path is left out: this is the form that a database keeps.
    """
    sampler: dict[str, Any] = {"type": configuration.sampler, "seed": configuration.sampler_seed}
    if configuration.n_trials is not None:
        sampler["n_trials"] = configuration.n_trials
    sections: dict[str, dict[str, Any]] = {"model": {}, "cross_validation": {}}
    for name, value in configuration.model.items():
        sections[KEYS[name].section][name] = plain(value)
    sections["cross_validation"] |= {"folds": configuration.folds, "seed": configuration.seed}
    fixed = plain_values(configuration.fixed)
    if configuration.from_best_of:
        one, *others = configuration.from_best_of
        fixed["from_best_of"] = [one, *others] if others else one
    # Searches are written as versions without other kinds wrote them.
    kind = {} if configuration.kind == StudyKind.SEARCH else {"kind": configuration.kind}
    return {
        "name": configuration.name,
        **kind,
        "lease_seconds": configuration.lease_seconds,
        "sampler": sampler,
        **pruner_document(configuration.pruner),
        "search_space": {name: _range_document(axis) for name, axis in configuration.search_space.items()},
        "fixed": fixed,
        **sections,
    }


def pruner_document(pruner: Pruner | None) -> dict[str, dict[str, Any]]:
    """Return the section of a pruner with its options; an empty dictionary for none, as earlier versions wrote it."""
    if pruner is None:
        return {}
    return {"pruner": {name: getattr(pruner, name) for name in ("type", *PRUNER_OPTIONS[pruner.type])}}


def toml_string(text: str) -> str:
    """Return a text as a quoted TOML string.

    Raises:
        PathError: the text is not valid Unicode, such as a path whose bytes are not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PathError(f"{text!r} is not valid UTF-8, and a study file must be: rename it") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_value(value: Any) -> str:
    """Return a value as a study file writes it, or ``not set`` for None."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return toml_string(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {toml_value(inner)}" for name, inner in value.items()) + "}"
    return repr(value)


def _range_document(axis: Range) -> dict[str, Any] | list[Value]:
    if axis.type == "categorical":
        return list(axis.choices)
    absent = {"log": False, "step": None, "choices": ()}
    return {name: value for name, value in asdict(axis).items() if name not in absent or value != absent[name]}


def _meant(name: str, known: Iterable[str]) -> str:
    near = nearest(name, known)
    return f" (is {near} meant?)" if near else ""


class _Reader:
    """A reader of one document that collects problems instead of stopping at the first."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def problem(self, location: str, description: str) -> None:
        self.problems.append(Problem(location, description))

    def section(self, name: str, required: bool = False) -> dict[str, Any]:
        table = self.document.get(name)
        if table is None:
            if required:
                self.problem(f"[{name}]", "is missing")
            return {}
        if not isinstance(table, dict):
            self.problem(name, f"{table!r} is not a section; write [{name}]")
            return {}
        return dict(table)

    def names(self, section: str) -> set[str]:
        """Return the keys that a section names, with valid values or not."""
        table = self.document.get(section)
        return set(table) if isinstance(table, dict) else set()

    def take(self, table: dict[str, Any], location: str, key: Key) -> Any:
        """Remove and return one checked value: the default if it is absent, None if it is invalid."""
        name = location.rpartition(".")[2]
        if name not in table:
            if key.default is None:
                self.problem(location, "is missing")
            return key.default
        value = table.pop(name)
        violation = key.violation(value)
        if violation:
            self.problem(location, violation)
            return None
        return key.convert(value)

    def refuse_rest(self, table: Mapping[str, Any], prefix: str, known: tuple[str, ...]) -> None:
        for name in table:
            self.problem(f"{prefix}{name}", f"is not a key here{_meant(name, known)}; the keys are {', '.join(known)}")

    def read(self, stored: bool) -> StudyConfiguration | None:
        top = {name: v for name, v in self.document.items() if name not in SECTIONS}
        name = self.take(top, "name", Key("", str))
        if name is not None and not NAME.fullmatch(name):
            self.problem("name", f"{name!r} may only hold letters, digits, dots, dashes and underscores (at most 100)")
        manifest = None if stored else self.take(top, "manifest", Key("", str))
        lease = self.take(top, "lease_seconds", Key("", int, LEASE_SECONDS, low=2))
        kind = StudyKind(top.pop("kind", StudyKind.SEARCH)) if stored else self.kind()
        self.refuse_rest(top, "", (*TOP_LEVEL, *(f"[{s}]" for s in SECTIONS)))
        pruner = self.read_pruner()
        if kind == StudyKind.COMPARISON and "pruner" in self.document:
            self.problem("[pruner]", f"goes with a search only: {ONE_CONFIGURATION}")
        searched, named_fixed = self.names("search_space"), self.names("fixed")
        fixed, from_best_of = self.read_fixed(searched)
        model, folds, seed, left_open = self.read_model(searched | named_fixed)
        sampler, sampler_seed, n_trials, search_space = self.read_design(kind, folds, stored)
        if not from_best_of:
            self.refuse_misfits({**model, **fixed}, searched, named_fixed)
        if name in from_best_of:
            self.problem("fixed.from_best_of", "names this study itself")
        if kind == StudyKind.COMPARISON:
            self.refuse_open(from_best_of, named_fixed)
        elif not from_best_of:
            for missing in (key for key in HYPERPARAMETERS if key not in searched | named_fixed):
                self.problem(missing, "has no value: name it in [search_space] or in [fixed]")
        if self.problems:
            return None
        return StudyConfiguration(
            name=name,
            manifest=manifest,
            sampler=sampler,
            sampler_seed=sampler_seed,
            n_trials=n_trials,
            search_space=search_space,
            fixed=fixed,
            from_best_of=from_best_of,
            model=model,
            folds=folds,
            seed=seed,
            lease_seconds=lease,
            kind=kind,
            pruner=pruner,
            left_open=left_open,
        )

    def kind(self) -> StudyKind:
        """Return what a study file describes: with neither sampler nor search space, a configuration to compare."""
        neither = "sampler" not in self.document and "search_space" not in self.document
        return StudyKind.COMPARISON if neither else StudyKind.SEARCH

    def refuse_open(self, from_best_of: tuple[str, ...], named: set[str]) -> None:
        """Refuse a configuration to compare that does not name all four hyperparameters itself."""
        if from_best_of:
            self.problem("fixed.from_best_of", f"goes with a search only: {ONE_CONFIGURATION}")
            return
        for missing in (key for key in HYPERPARAMETERS if key not in named):
            self.problem(missing, f"has no value: name it in [fixed] ({ONE_CONFIGURATION})")

    def read_design(self, kind: StudyKind, folds: Any, stored: bool) -> tuple[Any, Any, Any, dict[str, Range]]:
        """Return sampler, its seed, number of trials and search space; those of a comparison follow from its folds."""
        if kind == StudyKind.COMPARISON and not stored:
            axis = Range("categorical", choices=tuple(range(folds or 0)))
            return "grid", 0, None, {"fold": axis}
        sampler, sampler_seed, n_trials = self.read_sampler()
        searchable = {name: key for name, key in KEYS.items() if name not in UNSEARCHED}
        keys = searchable if kind == StudyKind.SEARCH else FOLD_KEYS
        return sampler, sampler_seed, n_trials, self.read_search_space(sampler, keys)

    def refuse_misfits(self, values: Mapping[str, Value], searched: set[str], named_fixed: set[str]) -> None:
        """Refuse the keys that mean nothing for the model; with ``from_best_of``, they are known only later."""
        architecture, train = (str(values.get(name, KEYS[name].default)) for name in UNSEARCHED)
        for name in sorted({*values, *searched} & {*KEYS}):
            if description := misfit(name, architecture, train):
                section = "search_space" if name in searched else "fixed" if name in named_fixed else KEYS[name].section
                self.problem(f"{section}.{name}", description)

    def read_sampler(self) -> tuple[Any, Any, Any]:
        if not isinstance(self.document.get("sampler"), dict):
            self.section("sampler", required=True)
            return None, None, None
        table = self.section("sampler")
        kind = self.take(table, "sampler.type", Key("", str, choices=SAMPLERS))
        seed = self.take(table, "sampler.seed", Key("", int, 0, low=0, high=2**32 - 1))
        n_trials = None
        if kind == "grid" and "n_trials" in table:
            self.problem("sampler.n_trials", "does not go with a grid, which runs each of its cells once")
            table.pop("n_trials")
        elif kind in ("random", *ADAPTIVE):
            n_trials = self.take(table, "sampler.n_trials", Key("", int, low=1, high=1_000_000))
        else:
            table.pop("n_trials", None)
        self.refuse_rest(table, "sampler.", ("type", "seed", "n_trials"))
        return kind, seed, n_trials

    def read_pruner(self) -> Pruner | None:
        if not isinstance(self.document.get("pruner"), dict):
            self.section("pruner")
            return None
        table = self.section("pruner")
        kind = self.take(table, "pruner.type", Key("", str, choices=tuple(PRUNER_OPTIONS)))
        if kind is None:
            return None
        options = {name: self.take(table, f"pruner.{name}", key) for name, key in PRUNER_OPTIONS[kind].items()}
        for name in table:
            others = [other for other, keys in PRUNER_OPTIONS.items() if name in keys]
            mistake = f"belongs to {others[0]}, not to {kind}" if others else "is not a key here"
            known = ("type", *options)
            self.problem(f"pruner.{name}", f"{mistake}{_meant(name, known)}; the keys are {', '.join(known)}")
        return None if kind == "none" or self.problems else Pruner(kind, **options)

    def read_search_space(self, sampler: str | None, keys: Mapping[str, Key]) -> dict[str, Range]:
        table = self.section("search_space", required=True)
        if not table and isinstance(self.document.get("search_space"), dict):
            self.problem("[search_space]", "is empty: name at least one key to search")
        axes: dict[str, Range] = {}
        for name, value in table.items():
            location = f"search_space.{name}"
            if name not in keys:
                description = f"is not a key that can be searched{_meant(name, keys)}; those are {', '.join(keys)}"
                self.problem(location, description)
                continue
            axis = self.read_axis(location, keys[name], value)
            if axis is None:
                continue
            if sampler == "grid" and axis.type != "categorical":
                self.problem(location, "a grid needs a list of values, as in [1e-4, 1e-3]")
            if sampler in ADAPTIVE and axis.type != "categorical" and name in TrialConfiguration.FEATURE_KEYS:
                description = f"{sampler} needs a list of values here, because features are computed before any point"
                self.problem(location, f"{description} is drawn")
            axes[name] = axis
        if sampler == "cma-es" and axes and all(axis.type == "categorical" for axis in axes.values()):
            self.problem("[search_space]", "cma-es draws from ranges alone, and lists at random: give a range, or tpe")
        return axes

    def read_axis(self, location: str, key: Key, axis: Any) -> Range | None:
        if isinstance(axis, dict) and axis.get("type") == "categorical":
            self.refuse_rest(
                {k: v for k, v in axis.items() if k not in ("type", "choices")}, f"{location}.", ("choices",)
            )
            axis = axis.get("choices")
        if isinstance(axis, list):
            return self.read_choices(location, key, axis)
        if not isinstance(axis, dict):
            self.problem(location, f"{axis!r} is neither a list of values nor a range like {{type, low, high}}")
            return None
        return self.read_interval(location, key, dict(axis))

    def read_choices(self, location: str, key: Key, choices: list[Any]) -> Range | None:
        if not choices:
            self.problem(location, "the list of values is empty")
            return None
        if key.type is tuple:
            self.problem(location, "a list of lists cannot be searched: fix this key")
            return None
        violations = [violation for violation in map(key.violation, choices) if violation]
        for violation in violations:
            self.problem(location, violation)
        if violations:
            return None
        values = tuple(key.convert(choice) for choice in choices)
        if len(set(values)) < len(values):
            self.problem(location, f"names a value twice: {choices}")
            return None
        return Range("categorical", choices=values)

    def read_interval(self, location: str, key: Key, table: dict[str, Any]) -> Range | None:
        before = len(self.problems)
        if key.type not in (int, float):
            self.problem(location, "does not take numbers: give a list of values")
            return None
        kind = self.take(table, f"{location}.type", Key("", str, choices=("int", "float")))
        if kind is not None and kind != key.type.__name__:
            self.problem(f"{location}.type", f"{kind!r} does not fit: this key is of type {key.type.__name__}")
        low = self.take(
            table, f"{location}.low", Key("", key.type, None, key.low, key.high, key.exclusive_low, key.exclusive_high)
        )
        high = self.take(
            table, f"{location}.high", Key("", key.type, None, key.low, key.high, key.exclusive_low, key.exclusive_high)
        )
        log = self.take(table, f"{location}.log", Key("", bool, False))
        step = (
            self.take(table, f"{location}.step", Key("", key.type, low=0, exclusive_low=True))
            if "step" in table
            else None
        )
        self.refuse_rest(table, f"{location}.", ("type", "low", "high", "log", "step"))
        if low is not None and high is not None and low >= high:
            self.problem(location, f"the range is empty: low {low!r} is not below high {high!r}")
        if log and (step is not None or (low is not None and low <= 0)):
            self.problem(f"{location}.log", "needs a low above 0 and no step")
        if len(self.problems) > before:
            return None
        return Range(kind, low=low, high=high, log=log, step=step)

    def read_fixed(self, searched: set[str]) -> tuple[dict[str, Value], tuple[str, ...]]:
        table = self.section("fixed")
        sources = self.read_sources(table.pop("from_best_of")) if "from_best_of" in table else ()
        fixed: dict[str, Value] = {}
        for name in list(table):
            if name not in KEYS:
                continue
            if name in searched:
                self.problem(f"fixed.{name}", "is searched too: take it out of [fixed] or of [search_space]")
            value = self.take(table, f"fixed.{name}", KEYS[name])
            if value is not None:
                fixed[name] = value
        self.refuse_rest(table, "fixed.", (*KEYS, "from_best_of"))
        return fixed, sources

    def read_sources(self, named: Any) -> tuple[str, ...]:
        names = named if isinstance(named, list) else [named]
        if not names or not all(isinstance(name, str) and name for name in names):
            self.problem("fixed.from_best_of", f"{named!r} is neither the name of a study nor a list of names")
            return ()
        if len(set(names)) < len(names):
            self.problem("fixed.from_best_of", f"names a study twice: {names}")
        return tuple(names)

    def read_model(self, elsewhere: set[str]) -> tuple[dict[str, Value], Any, Any, frozenset[str]]:
        values: dict[str, Value] = {}
        tables = {name: self.section(name) for name in ("model", "cross_validation")}
        for name, key in KEYS.items():
            if not key.section or name not in tables[key.section]:
                continue
            location = f"{key.section}.{name}"
            if name in elsewhere:
                self.problem(location, "is given in [search_space] or [fixed] too: name it once")
            value = self.take(tables[key.section], location, key)
            if value is not None:
                values[name] = value
        left_open = frozenset({"folds", "seed"} - set(tables["cross_validation"]))
        folds = self.take(tables["cross_validation"], "cross_validation.folds", Key("", int, FOLDS, low=2, high=1000))
        seed = self.take(tables["cross_validation"], "cross_validation.seed", Key("", int, SEED, low=0, high=2**32 - 1))
        names = {s: tuple(n for n, k in KEYS.items() if k.section == s) for s in tables}
        self.refuse_rest(tables["model"], "model.", names["model"])
        self.refuse_rest(tables["cross_validation"], "cross_validation.", ("folds", "seed", *names["cross_validation"]))
        return values, folds, seed, left_open
