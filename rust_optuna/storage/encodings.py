"""The characters that a database can hold: all of Unicode, or those of the encoding that it was created with."""

from __future__ import annotations

from typing import Any

WHOLE_IN_MARIADB = ("utf8mb4", "utf16", "utf16le", "utf32")
"""The character sets of MariaDB and MySQL that hold all of Unicode; their ``utf8`` does not."""


def holds_unicode(connection: Any) -> bool:
    """Return whether a database, and this connection to it, can hold every character.

    Args:
        connection: the driver's own connection, of psycopg or PyMySQL.
    """
    if hasattr(connection, "info"):
        # SQL_ASCII is not UTF-8 either: the server stores bytes as they come, and counts each as a character.
        server = connection.info.parameter_status("server_encoding")
        return bool(server == "UTF8" and connection.info.encoding == "utf-8")
    known = ", ".join(f"'{name}'" for name in WHOLE_IN_MARIADB)
    with connection.cursor() as cursor:
        # New tables get the database's character set, but existing ones may have another.
        cursor.execute(
            f"SELECT @@character_set_database IN ({known}) AND NOT EXISTS (SELECT 1 FROM information_schema.columns "  # noqa: S608
            r"WHERE table_schema = DATABASE() AND table_name LIKE 'rust\_optuna\_%' "
            f"AND character_set_name NOT IN ({known}))"
        )
        (all_tables,) = cursor.fetchone()
    connection.rollback()
    return bool(all_tables) and connection.charset == "utf8mb4"
