"""Similar patients' names that may belong to one patient, and the decisions about them.

Every division treats a patient whose name is written in two ways as two patients, who may end up on both sides. Names
that differ only in how their accents are composed are one name: `read_manifest` ensures that. Names that differ only in
case, leading zeros, ``.0``, spaces or punctuation may belong to one patient or to several, and only somebody who knows
the patients can say which. ``data split --same`` then gives them one name in the manifest, and ``data split
--different`` marks their rows as `Film.distinct`. So every later command finds the decision in the manifest.
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
"""The argument that means all groups of undecided names."""
SHOWN = 10
"""The number of groups of names that a message lists."""

Group = tuple[str, ...]


@dataclass(frozen=True)
class Settled:
    """Films after decisions about their patients' names.

    Args:
        films: the films, in their original order.
        renamed: replaced name → the name that its patient has now.
        distinct: the names that were declared different patients.
    """

    films: tuple[Film, ...]
    renamed: Mapping[str, str]
    distinct: Group


def alike(names: Iterable[str]) -> list[Group]:
    """Return the groups of two or more names that are alike, in the order in which they first appear.

    Names are alike if they are equal apart from case, leading zeros of numbers, ``.0`` after a number, spaces and
    punctuation. A separator between two numbers does count: ``1-12`` is not like ``11-2``.
    """
    groups: dict[Group, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(_key(name), []).append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def undecided(films: Sequence[Film]) -> list[Group]:
    """Return the groups of alike names of which at least one is not marked as distinct."""
    distinct = _distinct(films)
    return [group for group in alike(film.patient for film in films) if not distinct.issuperset(group)]


def warning(groups: Sequence[Group], films: Sequence[Film]) -> str:
    """Return a message about groups of alike names, with the rows of the first few groups and the remedy."""
    lines = ["some patients' names are alike and may belong to one patient:"]
    lines += [f"  {_with_rows(group, films)}" for group in groups[:SHOWN]]
    if len(groups) > SHOWN:
        lines.append(f"  … and {len(groups) - SHOWN:,} more groups")
    lines.append(
        "Run `rust-optuna data split MANIFEST` with --same if each group is one patient, with --different if none is, "
        "or with names: --same 'A=B' --different 'C=D'"
    )
    return "\n".join(lines)


def settle(films: Sequence[Film], same: Sequence[str] = (), different: Sequence[str] = ()) -> Settled:
    """Apply decisions about alike names, after which none may remain undecided.

    Args:
        films: all films of a manifest.
        same: names of one patient as ``A=B``, of which A is kept; or ``all`` for each group of alike names, of which
            the name with the most films is kept, or the first such name in the manifest.
        different: names of different patients as ``A=B``, or ``all`` for each group of alike names.

    Raises:
        PatientNamesError: a decision names no patient of the manifest, contradicts another one, or is missing.
    """
    if ALL in same and ALL in different:
        raise PatientNamesError(
            "--same all and --different all contradict each other: give one of them, and the other groups by name"
        )
    names = frozenset(film.patient for film in films)
    separate = [_named(text, names, "--different") for text in different if text != ALL]
    joined = [_named(text, names, "--same") for text in same if text != ALL]
    if ALL in same:
        joined += _groups_without(films, {name for group in separate for name in group})
    new_name = _new_names(names, joined)
    for first, second in _pairs(separate):
        if new_name[first] == new_name[second]:
            raise PatientNamesError(
                f"{first!r} and {second!r} cannot be both one patient and two: drop --same or --different"
            )
    renamed = [replace(film, patient=new_name[film.patient]) for film in films]
    different_groups = [tuple(new_name[name] for name in group) for group in separate]
    if ALL in different:
        different_groups += undecided(renamed)
    _refuse_undecided(renamed, different_groups)
    distinct = {name for group in different_groups for name in group}
    marked = distinct | _distinct(renamed)
    settled = tuple(replace(film, distinct=film.patient in marked) for film in renamed)
    replaced = {old: new for old, new in new_name.items() if old != new}
    return Settled(settled, replaced, tuple(sorted(distinct)))


def _distinct(films: Sequence[Film]) -> set[str]:
    """Return the patients who are marked as distinct in any of their rows; films added later may lack the mark."""
    return {film.patient for film in films if film.distinct}


def _refuse_undecided(films: Sequence[Film], different: Sequence[Group]) -> None:
    """Refuse alike names that are neither in a group of ``different`` patients nor marked as distinct."""
    distinct, different_pairs = _distinct(films), {frozenset(pair) for pair in _pairs(different)}
    remaining = [
        group
        for group in undecided(films)
        if any(
            not distinct.issuperset(pair) and frozenset(pair) not in different_pairs for pair in combinations(group, 2)
        )
    ]
    if remaining:
        raise PatientNamesError(f"The manifest was not changed: {warning(remaining, films)}")


def _groups_without(films: Sequence[Film], excluded: set[str]) -> list[Group]:
    """Return the undecided groups without some names, each with the name of most films first."""
    count = Counter(film.patient for film in films)
    groups = [[name for name in group if name not in excluded] for group in undecided(films)]
    return [tuple(sorted(group, key=lambda name: -count[name])) for group in groups if len(group) > 1]


def _new_names(names: Iterable[str], groups: Sequence[Group]) -> dict[str, str]:
    """Return the new name of each patient when each group becomes one patient with the group's first name."""
    new_name = {name: name for name in names}
    for group in groups:
        joined = {new_name[name] for name in group}
        name = new_name[group[0]]
        new_name |= {old: name for old, new in new_name.items() if new in joined}
    return new_name


def _named(text: str, names: frozenset[str], option: str) -> Group:
    """Return the patients that ``A=B`` names, at least two, whatever characters their names contain.

    Raises:
        PatientNamesError: the text names fewer than two patients.
    """
    group = tuple(dict.fromkeys(_divided(composed(text), names)))
    if len(group) > 1:
        return group
    parts = [part.strip() for part in composed(text).split("=")]
    unknown = [repr(part) for part in parts if part not in names]
    reason = f"the manifest has no patient {' or '.join(unknown)}" if unknown else "that is only one name"
    raise PatientNamesError(
        f"{option} {text!r}: {reason}. Give the names exactly as in the manifest, as in {option} 'A=B'"
    )


def _divided(text: str, names: frozenset[str]) -> list[str]:
    """Return the names joined by ``=`` in a text, or an empty list. A name may contain an ``=`` itself."""
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
    """Return what alike names have in common: their numbers, and the letters between the numbers."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    text = re.sub(r"(?<=\d)\.0+(?![\d.])", "", text)
    text = "".join(letter if unicodedata.category(letter)[0] in "LMN" else " " for letter in text)
    text = re.sub(r"(?<=[^\d\s])\s+(?=[^\d\s])", "", text)
    return tuple(part.lstrip("0") or "0" for part in re.findall(r"\d+|[^\d\s]+", text)) or (name,)
