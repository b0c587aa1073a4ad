"""The record of who opened a hold-out, when, and with which models: made before a film is scored.

It stands in two places: in the database, where deleting studies does not touch it, and in a file beside the manifest,
which outlives the database. An opening that either of them knows has taken place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from rust_optuna.errors import DataError, OpenedBeforeError, StorageError
from rust_optuna.locks import locked
from rust_optuna.paths import atomic_write, remove_leftovers
from rust_optuna.permissions import lack
from rust_optuna.storage.database import Database
from rust_optuna.storage.tables import database_now, holdout_opening

VERSION = 1
LOCK = "holdout"


@dataclass(frozen=True)
class Opening:
    """One opening of a hold-out.

    Args:
        study: the search whose best hyperparameters the models were trained with.
        films: the content hashes of the films, sorted.
        models: the SHA-256 of each head, by the head's name.
        definition: what the primary number is, in words.
        asked_by: the user who asked for it.
        opened_at: seconds since 1970, by the database's clock.
        numbers: the primary number and what stands beside it; None until they are known.
    """

    study: str
    films: tuple[str, ...]
    models: Mapping[str, str]
    definition: str
    asked_by: str
    opened_at: float
    numbers: Mapping[str, Any] | None = None

    @property
    def id(self) -> str:
        """A hash of films, models and definition: who asks again for the same gets the same opening."""
        what = [list(self.films), dict(self.models), self.definition]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Opening:
        """Return what `to_json` wrote."""
        return cls(
            study=document["study"],
            films=tuple(document["films"]),
            models=document["models"],
            definition=document["definition"],
            asked_by=document["asked_by"],
            opened_at=document["opened_at"],
            numbers=document["numbers"],
        )

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON can hold."""
        return {
            "id": self.id,
            "study": self.study,
            "films": list(self.films),
            "models": dict(self.models),
            "definition": self.definition,
            "asked_by": self.asked_by,
            "opened_at": self.opened_at,
            "numbers": None if self.numbers is None else dict(self.numbers),
        }


class Openings:
    """The openings that a database and a file know of.

    Args:
        database: holds the table.
        file: stands beside the manifest; made by the first opening.
    """

    def __init__(self, database: Database, file: Path) -> None:
        self._database = database
        self.file = file
        self._lock = file.with_name(f"{file.name}.lock")

    def refuse_unwritable(self) -> None:
        """Refuse where the file could not be written, before a hold-out is opened.

        Raises:
            DataError: it could not.
        """
        places = (self.file, self._lock, self.file.parent)
        if (words := next(filter(None, (lack(place, write=True) for place in places)), None)) is not None:
            raise DataError(
                f"The opening of the hold-out cannot be recorded beside the manifest: {words}. Or name another place "
                "for the record: --record DIR"
            )

    def of_films(self, films: Sequence[str]) -> list[Opening]:
        """Return the openings in which any of these films was scored, oldest first.

        Raises:
            DataError: the file cannot be read, or is damaged.
        """
        wanted = set(films)
        return [opening for opening in self.all() if wanted & set(opening.films)]

    def all(self) -> list[Opening]:
        """Return all openings, oldest first.

        Raises:
            DataError: the file cannot be read, or is damaged.
        """
        known: dict[str, Opening] = {}
        for opening in [*self._in_file(), *self._in_database()]:
            if opening.id not in known or known[opening.id].numbers is None:
                known[opening.id] = opening
        return sorted(known.values(), key=lambda opening: (opening.opened_at, opening.id))

    def begin(self, opening: Opening, *, again: bool = False) -> Opening:
        """Record an opening before the films are scored; one that was recorded before is the same opening.

        Args:
            opening: its time is set here.
            again: the user knows that the hold-out was opened before, and wants another opening.

        Returns:
            The opening as recorded.

        Raises:
            OpenedBeforeError: other models have met these films, and ``again`` is not set.
            DataError: the file cannot be read or written.
        """
        with self._alone():
            earlier = self.of_films(opening.films)
            same = next((known for known in earlier if known.id == opening.id), None)
            if same is None:
                if earlier and not again:
                    raise OpenedBeforeError(opened_before(earlier))
                now = self._database.transact(lambda c: float(c.execute(sa.select(database_now())).scalar_one()))
                same = replace(opening, opened_at=now, numbers=None)
            self._write(same)
        return same

    def complete(self, opening: Opening, numbers: Mapping[str, Any]) -> Opening:
        """Add the numbers of a recorded opening."""
        done = replace(opening, numbers=numbers)
        with self._alone():
            self._write(done)
        return done

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep out every process that has the table or the file: several databases may share a file."""
        self.refuse_unwritable()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with locked(self._lock), self._database.exclusive(LOCK):
            yield

    def _write(self, opening: Opening) -> None:
        """Write an opening to the file, then to the table; either may know it already."""
        others = [known for known in self._in_file() if known.id != opening.id]
        document = {"version": VERSION, "openings": [known.to_json() for known in [*others, opening]]}
        remove_leftovers(self.file)
        with atomic_write(self.file) as temporary:
            temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

        def enter(connection: sa.Connection) -> None:
            mine = holdout_opening.c.id == opening.id
            numbers = None if opening.numbers is None else json.dumps(dict(opening.numbers))
            if connection.execute(sa.select(holdout_opening.c.id).where(mine)).first() is not None:
                connection.execute(holdout_opening.update().where(mine).values(numbers=numbers))
                return
            row = holdout_opening.insert().values(
                id=opening.id,
                study=opening.study,
                films=json.dumps(list(opening.films)),
                models=json.dumps(dict(opening.models)),
                definition=json.dumps(opening.definition),
                asked_by=opening.asked_by,
                opened_at=opening.opened_at,
                numbers=numbers,
            )
            connection.execute(row)

        self._database.transact(enter)

    def _in_file(self) -> list[Opening]:
        try:
            document = json.loads(self.file.read_text(encoding="utf-8"))
            if document["version"] != VERSION:
                raise StorageError(f"{self.file} was written by a later version of rust_optuna")
            return [Opening.from_json(opening) for opening in document["openings"]]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DataError(f"{self.file} cannot be read: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(
                f"{self.file} is damaged, and it says who opened the hold-out: restore it from a backup"
            ) from None

    def _in_database(self) -> list[Opening]:
        rows = self._database.transact(lambda c: c.execute(sa.select(holdout_opening)).all())
        return [
            Opening(
                study=row.study,
                films=tuple(json.loads(row.films)),
                models=json.loads(row.models),
                definition=json.loads(row.definition),
                asked_by=row.asked_by,
                opened_at=row.opened_at,
                numbers=json.loads(row.numbers) if row.numbers else None,
            )
            for row in rows
        ]


def opened_before(earlier: Sequence[Opening]) -> str:
    """Say how often a hold-out was opened, and what a further opening would mean."""
    times = "once" if len(earlier) == 1 else f"{len(earlier)} times"
    studies = ", ".join(dict.fromkeys(opening.study for opening in earlier))
    return (
        f"The hold-out has been opened {times} before (by {studies}). Numbers of another opening are chosen after the "
        "first were seen, so they are no longer independent. --again opens it all the same; the record and every "
        "report then show all openings"
    )
