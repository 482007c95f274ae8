"""Connections of psycopg: session settings, and text that PostgreSQL cannot store as it is."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg.abc import Buffer
from psycopg.types.string import StrDumperUnknown, TextLoader

# PostgreSQL refuses NUL characters, which SQLite and MySQL store. The control character SUB, which
# nobody uses, escapes them and itself.
_NUL, _SUB = "\x00", "\x1a"
_ESCAPED = re.compile(f"{_SUB}([01])")
_ENCODING = "UTF8"


class _EscapingDumper(StrDumperUnknown):
    def dump(self, obj: str) -> Any:
        return super().dump(escape_text(obj))


class _UnescapingLoader(TextLoader):
    def load(self, data: Buffer) -> Any:
        text = super().load(data)
        return unescape_text(text) if isinstance(text, str) else text


def escape_text(text: str) -> str:
    """Replace NUL by SUB and 0, and SUB by SUB and 1; other text is unchanged."""
    if _NUL not in text and _SUB not in text:
        return text
    return text.replace(_SUB, f"{_SUB}1").replace(_NUL, f"{_SUB}0")


def unescape_text(text: str) -> str:
    """Restore what `escape_text` replaced."""
    if _SUB not in text:
        return text
    return _ESCAPED.sub(lambda match: _NUL if match[1] == "0" else _SUB, text)


def prepare_connection(
    connection: psycopg.Connection[Any], *, lock_timeout_s: int, idle_timeout_s: int
) -> None:
    """Prepare a new connection: text is escaped, and waits for a lock and idle transactions end.

    Raises:
        psycopg.NotSupportedError: The database does not store text in UTF-8.
    """
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != _ENCODING:
        raise psycopg.NotSupportedError(
            f"the database stores text in {encoding}: make one with ENCODING 'UTF8' TEMPLATE"
            " template0"
        )
    connection.adapters.register_dumper(str, _EscapingDumper)
    for name in ("text", "varchar"):
        connection.adapters.register_loader(name, _UnescapingLoader)
    connection.autocommit = True
    limits = {"lock_timeout": lock_timeout_s}
    limits["idle_in_transaction_session_timeout"] = idle_timeout_s
    for name, seconds in limits.items():
        connection.execute("SELECT set_config(%s, %s, false)", [name, f"{seconds}s"])
    connection.autocommit = False
