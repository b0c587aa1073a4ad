"""What a database says of one study, read with SQL through plain drivers: nothing of this program or of Optuna."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


def connect(url: str) -> Any:
    """Open a DB-API connection to ``sqlite:///file``, ``postgresql+…://user@host:port/name`` or ``mysql+…://…``."""
    parts = urlsplit(url)
    backend = parts.scheme.partition("+")[0]
    if backend == "sqlite":
        return sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30, isolation_level=None)
    address = {"host": parts.hostname, "port": parts.port, "user": parts.username, "password": parts.password or ""}
    if backend == "postgresql":
        import psycopg

        return psycopg.connect(**address, dbname=parts.path[1:])
    import pymysql

    return pymysql.connect(**address, database=parts.path[1:])


def query(connection: Any, text: str, *values: Any) -> list[dict[str, Any]]:
    """Return rows as dictionaries; parameters are written ``?``."""
    cursor = connection.cursor()
    cursor.execute(text if isinstance(connection, sqlite3.Connection) else text.replace("?", "%s"), values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@dataclass(frozen=True)
class Trial:
    """An Optuna trial as its tables have it."""

    number: int
    state: str
    point: int | None
    attempt: int | None
    value: float | None
    parameters: Mapping[str, float]
    artifacts: Sequence[str]


@dataclass(frozen=True)
class Records:
    """One study: the ledger's row, points (each with ``attempts``, oldest first), and Optuna's trials."""

    study: Mapping[str, Any] | None
    points: Sequence[dict[str, Any]]
    trials: Sequence[Trial]


def read(connection: Any, name: str) -> Records:
    """Read a study by its name."""
    studies = query(connection, "SELECT * FROM rust_optuna_study WHERE name = ?", name)
    if not studies:
        return Records(None, [], [])
    study_id = studies[0]["id"]
    points = query(connection, "SELECT * FROM rust_optuna_point WHERE study_id = ? ORDER BY number", study_id)
    attempts = query(
        connection,
        "SELECT a.* FROM rust_optuna_attempt a JOIN rust_optuna_point p ON p.id = a.point_id"
        " WHERE p.study_id = ? ORDER BY a.number, a.id",
        study_id,
    )
    for point in points:
        point["attempts"] = [attempt for attempt in attempts if attempt["point_id"] == point["id"]]
        point["parameters"] = json.loads(point["parameters"])
    return Records(studies[0], points, _trials(connection, name))


def _trials(connection: Any, name: str) -> list[Trial]:
    found = []
    for row in _of_trials(connection, name, "trials", "x.number, x.state"):
        found.append({"number": row["number"], "state": row["state"], "user": {}, "params": {}, "artifacts": []} | row)
    by_id = {row["trial_id"]: row for row in found}
    for row in _of_trials(connection, name, "trial_user_attributes", "x.key, x.value_json", "key"):
        by_id[row["trial_id"]]["user"][row["key"]] = json.loads(row["value_json"])
    for row in _of_trials(connection, name, "trial_system_attributes", "x.key", "key"):
        if row["key"].startswith("artifacts:"):
            by_id[row["trial_id"]]["artifacts"].append(row["key"].removeprefix("artifacts:"))
    for row in _of_trials(connection, name, "trial_params", "x.param_name, x.param_value"):
        by_id[row["trial_id"]]["params"][row["param_name"]] = row["param_value"]
    values = {row["trial_id"]: row["value"] for row in _of_trials(connection, name, "trial_values", "x.value")}
    return [
        Trial(
            row["number"],
            row["state"],
            row["user"].get("point"),
            row["user"].get("attempt"),
            values.get(row["trial_id"]),
            row["params"],
            row["artifacts"],
        )
        for row in found
    ]


def _of_trials(connection: Any, name: str, table: str, columns: str, reserved: str = "") -> list[dict[str, Any]]:
    """Return columns of one of Optuna's tables for all trials of a study, in the order they were made."""
    if reserved:
        quoted = f"`{reserved}`" if type(connection).__module__.startswith("pymysql") else f'"{reserved}"'
        columns = columns.replace(f"x.{reserved}", f"x.{quoted}")
    trial = "x" if table == "trials" else "t"
    join = "" if table == "trials" else " JOIN trials t ON t.trial_id = x.trial_id"
    return query(
        connection,
        f"SELECT x.trial_id, {columns} FROM {table} x{join} JOIN studies s ON s.study_id = {trial}.study_id"
        f" WHERE s.study_name = ? ORDER BY x.trial_id",
        name,
    )
