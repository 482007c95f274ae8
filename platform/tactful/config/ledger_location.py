"""Location of the ledger of published numbers: a file, or a database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import sqlalchemy as sa

from tactful.config.settings import Settings, secret
from tactful.errors import ConfigError
from tactful_privacy.database_servers import SERVERS, parse_url, without_password

LEDGER = "ledger.db"
"""Name of the file in the data directory."""


def ledger_location(settings: Settings, *, environ: Mapping[str, str] | None = None) -> Path | str:
    """Return the ledger's file, or the address of the database that the settings name.

    Raises:
        ConfigError: if the variable is not set or holds no such address, or there is a file beside
            the database: releases recorded in one would be drawn again by the other.
    """
    file = settings.storage.data / LEDGER
    where = "statistics.ledger_url_env"
    url = secret(where, settings.statistics.ledger_url_env, environ=environ)
    if url is None:
        return file
    if not _is_database(url):
        raise ConfigError(
            f"{where}: the variable holds no address such as postgresql+psycopg://user@host/db or"
            " mysql+pymysql://user@host/db"
        )
    if file.exists():
        raise ConfigError(
            f"{where} names a database, and {file} is a ledger, too: releases in one would be"
            " drawn a second time by the other. Leave the setting empty, or use the database in a"
            " new installation"
        )
    return url


def existing_ledger(settings: Settings) -> Path | str:
    """Return the location of a ledger that exists.

    Raises:
        ConfigError: see `ledger_location`; also if there is no file.
    """
    place = ledger_location(settings)
    if isinstance(place, Path) and not place.exists():
        raise ConfigError(f"there is no ledger in {place.parent}: no statistics were published yet")
    return place


def named(place: Path | str) -> str:
    """Return the location without a password, for messages."""
    if isinstance(place, Path):
        return str(place)
    return without_password(parse_url(place))


def _is_database(url: str) -> bool:
    try:
        return parse_url(url).get_backend_name() in SERVERS
    except (sa.exc.ArgumentError, ValueError):
        return False  # maybe a password in the wrong variable: do not quote it
