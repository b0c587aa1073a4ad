"""Patients' names that may be one patient's, written in several ways: which they are, and what is decided about them.

A patient whose name is written in two ways is two patients to every division, and may stand on both sides of it.
Names that differ only in how their accents are composed are one name: `read_manifest` sees to that. Names that are
alike up to case, leading zeros, ``.0``, spaces or punctuation may be one patient's or not, and only somebody who knows
the patients can say. ``data split --same`` then gives them one name in the manifest, ``data split --different`` marks
their rows as `Film.distinct`. So every later command reads the decision in the manifest.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from rust_optuna.data.manifest import Film, named_rows
from rust_optuna.errors import PatientNamesError
from rust_optuna.spelling import composed

ALL = "all"
"""Stands for all groups of names about which nothing is decided."""
SHOWN = 10
"""Groups of names that a message lists."""

Group = tuple[str, ...]


@dataclass(frozen=True)
class Settled:
    """Films after decisions about their patients' names.

    Args:
        films: in the given order.
        renamed: each name that was replaced, and the name that its patient has now.
        distinct: the names that were told apart.
    """

    films: tuple[Film, ...]
    renamed: Mapping[str, str]
    distinct: Group


def alike(names: Iterable[str]) -> list[Group]:
    """Return the groups of two or more names that are alike, in the order in which they first appear.

    Alike are names that are equal up to case, leading zeros of numbers, ``.0`` after a number, spaces and punctuation,
    but for what divides two numbers: ``1-12`` is not ``11-2``.
    """
    groups: dict[Group, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(_key(name), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def undecided(films: Sequence[Film]) -> list[Group]:
    """Return the groups of alike names that may be one patient's: one of them at least is not marked as distinct."""
    distinct = _distinct(films)
    return [group for group in alike(film.patient for film in films) if not distinct.issuperset(group)]


def warning(groups: Sequence[Group], films: Sequence[Film]) -> str:
    """Return groups of alike names in words, with their rows and what to do; of many groups the first few."""
    lines = ["some patients' names are alike and may be one patient's, written in several ways:"]
    lines += [f"  {_with_rows(group, films)}" for group in groups[:SHOWN]]
    if len(groups) > SHOWN:
        lines.append(f"  … and {len(groups) - SHOWN:,} groups more")
    lines.append(
        "Settle it by `rust-optuna data split MANIFEST` with --same if each group is one patient, with --different if "
        "none is, or by name: --same 'A=B' --different 'C=D'"
    )
    return "\n".join(lines)


def settle(films: Sequence[Film], same: Sequence[str] = (), different: Sequence[str] = ()) -> Settled:
    """Apply decisions about alike names, after which none may be undecided.

    Args:
        films: all films of a manifest.
        same: names of one patient, as ``A=B``, of which A is kept; or ``all`` for each group of alike names, of which
            the name of most films is kept, the first in the manifest among equals.
        different: names of different patients, as ``A=B``; or ``all`` for each group of alike names.

    Raises:
        PatientNamesError: a decision names nobody of the manifest, contradicts another, or is missing.
    """
    if ALL in same and ALL in different:
        raise PatientNamesError(
            "--same all and --different all contradict each other: give one of them, others by name"
        )
    names = frozenset(film.patient for film in films)
    apart = [_named(text, names, "--different") for text in different if text != ALL]
    one = [_named(text, names, "--same") for text in same if text != ALL]
    if ALL in same:
        one += _groups_but(films, {name for group in apart for name in group})
    now = _names_now(names, one)
    for first, second in _pairs(apart):
        if now[first] == now[second]:
            raise PatientNamesError(f"{first!r} and {second!r} cannot be one patient and two: --same or --different?")
    renamed = [replace(film, patient=now[film.patient]) for film in films]
    told = [tuple(now[name] for name in group) for group in apart] + (undecided(renamed) if ALL in different else [])
    _refuse_undecided(renamed, told)
    distinct = {name for group in told for name in group}
    marked = distinct | _distinct(renamed)
    settled = tuple(replace(film, distinct=film.patient in marked) for film in renamed)
    return Settled(settled, {name: kept for name, kept in now.items() if name != kept}, tuple(sorted(distinct)))


def _distinct(films: Sequence[Film]) -> set[str]:
    """Return the patients who are marked as distinct, be it in one of their rows only: new films may have joined."""
    return {film.patient for film in films if film.distinct}


def _refuse_undecided(films: Sequence[Film], apart: Sequence[Group]) -> None:
    """Refuse alike names that are neither told apart now nor were before."""
    distinct, told = _distinct(films), {frozenset(pair) for pair in _pairs(apart)}
    left = [
        group
        for group in undecided(films)
        if any(not distinct.issuperset(pair) and frozenset(pair) not in told for pair in combinations(group, 2))
    ]
    if left:
        raise PatientNamesError(f"The manifest is left as it is: {warning(left, films)}")


def _groups_but(films: Sequence[Film], apart: set[str]) -> list[Group]:
    """Return the undecided groups without some names, the name of most films first."""
    count = Counter(film.patient for film in films)
    groups = [[name for name in group if name not in apart] for group in undecided(films)]
    return [tuple(sorted(group, key=lambda name: -count[name])) for group in groups if len(group) > 1]


def _names_now(names: Iterable[str], one: Sequence[Group]) -> dict[str, str]:
    """Return the name that each patient has once each of the groups is one patient, who has the group's first name."""
    now = {name: name for name in names}
    for group in one:
        joined = {now[name] for name in group}
        kept = now[group[0]]
        now |= {name: kept for name, was in now.items() if was in joined}
    return now


def _named(text: str, names: frozenset[str], option: str) -> Group:
    """Return the patients that ``A=B`` names, whatever characters their names hold: at least two.

    Raises:
        PatientNamesError: it names fewer.
    """
    group = tuple(dict.fromkeys(_divided(composed(text), names)))
    if len(group) > 1:
        return group
    parts = [part.strip() for part in composed(text).split("=")]
    nobody = [repr(part) for part in parts if part not in names]
    why = f"the manifest has no patient {' or '.join(nobody)}" if nobody else "that is one name"
    raise PatientNamesError(f"{option} {text!r}: {why}. Give names as they stand there, as in {option} 'A=B'")


def _divided(text: str, names: frozenset[str]) -> list[str]:
    """Return the names that a text is made of, with = between them, or nothing. A name may hold a = of its own."""
    if text.strip() in names:
        return [text.strip()]
    for sign in re.finditer("=", text):
        first, rest = text[: sign.start()].strip(), text[sign.end() :]
        if first in names and (others := _divided(rest, names)):
            return [first, *others]
    return []


def _pairs(groups: Iterable[Group]) -> list[tuple[str, str]]:
    return [pair for group in groups for pair in combinations(group, 2)]


def _with_rows(group: Group, films: Sequence[Film]) -> str:
    rows = {name: [film.row for film in films if film.patient == name] for name in group}
    sides = {film.split for film in films if film.patient in group and film.split}
    named = ", ".join(f"{name!r} ({named_rows(rows[name], most=3)})" for name in group)
    return f"{named}: on both sides of the split" if len(sides) > 1 else named


def _key(name: str) -> Group:
    """Return what alike names have in common: their numbers, and the letters between those."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    text = re.sub(r"(?<=\d)\.0+(?![\d.])", "", text)
    text = "".join(each if unicodedata.category(each)[0] in "LMN" else " " for each in text)
    text = re.sub(r"(?<=[^\d\s])\s+(?=[^\d\s])", "", text)
    return tuple(part.lstrip("0") or "0" for part in re.findall(r"\d+|[^\d\s]+", text)) or (name,)
