"""Settings of consent, pseudonyms, retention and published statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from tactful.config.fields import Variable


@dataclass(frozen=True)
class ConsentSettings:
    """What people may be used for who said nothing.

    Attributes:
        default: ``deny`` uses them for nothing, ``assume`` for every purpose; ``auto`` assumes with
            `server.dev`, where no real people are, and denies otherwise.
        keyring: file with the keys by which erased people are recognised; all servers of an
            installation need the same. Empty means ``keyring.json`` in the data directory.
        tombstones: file to which every erasure adds a line, to be kept apart from backups: after
            one was restored, who is in it is erased again. Empty for none.
        erase_days: within how many days an erasure is to be complete.
    """

    default: Literal["auto", "deny", "assume"] = "auto"
    keyring: Path = Path()
    tombstones: Path = Path()
    erase_days: Annotated[float, Meta(gt=0, le=365)] = 30.0


@dataclass(frozen=True)
class PrivacySettings:
    """How what is kept of people is sealed.

    Attributes:
        sealed_log: whether records of the log are sealed from now on, each under a key of its
            person, which an erasure deletes. What was sealed before is read in any case.
        vault: file with the keys of people, for all processes of one host that read or write the
            log. Empty means ``vault.db`` in the data directory.
        master_key_env: environment variable with the key that wraps those of people: 32 bytes in
            hexadecimal or Base64.
        master_key_file: file with it, instead.
    """

    sealed_log: bool = False
    vault: Path = Path()
    master_key_env: str = ""
    master_key_file: Path = Path()


@dataclass(frozen=True)
class RetentionSettings:
    """For how many days what people left is kept, counted from receipt; 0 is for ever.

    Attributes:
        personalisation_days: what lists are made from: events and descriptions of people in the
            log, and, counted from their last event, what is computed of them.
        measurement_days: events that may be counted and not be used for lists.
        impressions_days: lists that were shown, which models learn from.
        model_log_days: who changed which model, but the last change.
    """

    personalisation_days: Annotated[float, Meta(ge=0)] = 0.0
    measurement_days: Annotated[float, Meta(ge=0)] = 0.0
    impressions_days: Annotated[float, Meta(ge=0)] = 0.0
    model_log_days: Annotated[float, Meta(ge=0)] = 0.0


@dataclass(frozen=True)
class StatisticsSettings:
    """Which private statistics are published.

    Attributes:
        definitions: ``statistics.yaml``; empty means none.
        clock: what closes panes: the ``wall`` clock, or a ``replay`` that sends its own time.
        ledger_url_env: variable with the address of a MySQL or MariaDB database for the ledger;
            empty: an SQLite file in the data directory.
    """

    definitions: Path = Path()
    clock: Literal["wall", "replay"] = "wall"
    ledger_url_env: Variable = ""
