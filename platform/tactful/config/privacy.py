"""Settings of consent, pseudonyms, retention and published statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from tactful.config.fields import Variable

RecordKind = Literal["measurement", "impressions", "personalisation"]

DAY_MS = 86_400_000


@dataclass(frozen=True)
class ConsentSettings:
    """Settings of consent and erasure."""

    # consent of users without a decision: ``deny`` allows no purpose, ``assume`` every purpose;
    # ``auto`` assumes with `server.dev`, where users are not real, and denies otherwise
    default: Literal["auto", "deny", "assume"] = "auto"
    # whether a request with the header ``Sec-GPC: 1`` (Global Privacy Control) claims no consent
    honour_gpc: bool = True
    honour_dnt: bool = True  # the same of ``DNT: 1`` (Do Not Track)
    # file with the keys that recognise erased users and sign ids of recommendations; all servers of
    # an installation need the same. Empty: ``keyring.json`` in the data directory.
    keyring: Path = Path()
    # file to which every erasure adds a line; keep it apart from backups: after a restore its users
    # are erased again. Empty for none.
    tombstones: Path = Path()
    # days within which an erasure is complete
    erase_days: Annotated[float, Meta(gt=0, le=365)] = 30.0


@dataclass(frozen=True)
class PrivacySettings:
    """Settings of the encryption of personal data."""

    # whether new records of the log are encrypted, each with a key of its user, which an erasure
    # deletes. Records encrypted before are read in any case.
    sealed_log: bool = False
    # file with the keys of users, for all processes of one host that read or write the log. Empty:
    # ``vault.db`` in the data directory.
    vault: Path = Path()
    # environment variable with the key that wraps the keys of users: 32 bytes in hexadecimal or
    # Base64
    master_key_env: str = ""
    master_key_file: Path = Path()  # file with that key, instead


@dataclass(frozen=True)
class RetentionSettings:
    """Days for which personal data are kept, counted from receipt; 0 for ever."""

    # data for recommendations: events and descriptions of users in the log, and, counted from their
    # last event, their features
    personalisation_days: Annotated[float, Meta(ge=0)] = 0.0
    # events that may be counted and not be used for recommendations
    measurement_days: Annotated[float, Meta(ge=0)] = 0.0
    impressions_days: Annotated[float, Meta(ge=0)] = 0.0  # impressions, which models learn from
    # audit log of model changes, except the last change
    model_log_days: Annotated[float, Meta(ge=0)] = 0.0


def retention_limits(settings: RetentionSettings) -> dict[RecordKind, int]:
    """Return the retention of each kind in milliseconds, without unlimited kinds."""
    days: Mapping[RecordKind, float] = {
        "measurement": settings.measurement_days,
        "impressions": settings.impressions_days,
        "personalisation": settings.personalisation_days,
    }
    return {kind: days_to_ms(limit) for kind, limit in days.items() if limit}


def days_to_ms(days: float) -> int:
    """Convert days to whole milliseconds."""
    return round(days * DAY_MS)


@dataclass(frozen=True)
class StatisticsSettings:
    """Settings of published statistics."""

    definitions: Path = Path()  # ``statistics.yaml``; empty for none
    # clock that closes panes: the ``wall`` clock, or a ``replay`` that sends its own time
    clock: Literal["wall", "replay"] = "wall"
    # variable with the address of a MySQL or MariaDB database for the ledger; empty: an SQLite file
    # in the data directory
    ledger_url_env: Variable = ""
