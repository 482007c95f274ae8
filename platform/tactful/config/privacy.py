"""Settings of consent, minimisation, retention and published statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from tactful.config.fields import Variable
from tactful.errors import ConfigError

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
    # file with the keys that recognise erased users, sign ids of recommendations and hash fields;
    # all servers of an installation need the same. Empty: ``keyring.json`` in the data directory.
    keyring: Path = Path()
    # file to which every erasure adds a line; keep it apart from backups: after a restore its users
    # are erased again. Empty for none.
    tombstones: Path = Path()
    # days within which an erasure is complete
    erase_days: Annotated[float, Meta(gt=0, le=365)] = 30.0
    # variable with the addresses of databases that `tactful sink` writes, separated by blanks:
    # erasures delete their rows. A prefix of keys in Redis follows the address after ``#``.
    sinks_env: Variable = ""
    # further topics of rows on the brokers of the log, separated by blanks, as of matches or of
    # Flink: erasures write tombstones there, and to `worker.fired_topic` and `worker.late_topic`
    topics: str = ""


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


_NEEDED = frozenset({"category", "consent", "dwell_ms", "items", "price", "quantity"})


@dataclass(frozen=True)
class MinimiseSettings:
    """Fields of events, users and requests that are shortened before anything is stored.

    A field is ``properties.NAME`` or ``context.NAME``; several are separated by commas.
    """

    truncate_ip: str = ""  # IP addresses of which the first bits are kept; other values are removed
    ipv4_bits: Annotated[int, Meta(ge=8, le=24)] = 24  # leading bits that are kept of IPv4
    ipv6_bits: Annotated[int, Meta(ge=8, le=64)] = 48  # leading bits that are kept of IPv6
    hash: str = ""  # fields that are replaced by a hash with a key of `consent.keyring`
    drop: str = ""  # fields that are removed
    latitude: str = ""  # latitudes in degrees, replaced by that of the centre of their cell
    longitude: str = ""  # longitude of each latitude, in the same order
    cell_km: Annotated[float, Meta(ge=1, le=20_000)] = 10.0  # least side of a cell
    postcode: str = ""  # postcodes of which the first characters are kept
    postcode_characters: Annotated[int, Meta(ge=1, le=16)] = 2  # number of these characters

    def __post_init__(self) -> None:
        """Refuse what is no field, is named twice, or is needed as it is."""
        named: set[tuple[str, str]] = set()
        for setting in ("truncate_ip", "hash", "drop", "latitude", "longitude", "postcode"):
            for part, name in self.fields(setting):
                field, where = f"{part}.{name}", f"minimise.{setting}"
                if part not in ("properties", "context") or not 1 <= len(name) <= 64:
                    raise ConfigError(
                        f"{where}: {field.strip('.')!r} is not a field: write properties.NAME or "
                        "context.NAME, several separated by commas"
                    )
                if name in _NEEDED or name.startswith("consent."):
                    raise ConfigError(f"{where}: the server needs {field} as it is sent")
                if (part, name) in named:
                    raise ConfigError(f"{where}: {field} is named twice in [minimise]")
                named.add((part, name))
        latitudes, longitudes = [*self.fields("latitude")], [*self.fields("longitude")]
        if [part for part, _ in latitudes] != [part for part, _ in longitudes]:
            raise ConfigError(
                "minimise.latitude and minimise.longitude must name as many fields, in the same "
                "order, each pair of properties or of context: a cell needs both"
            )

    def fields(self, setting: str) -> Iterator[tuple[str, str]]:
        """Yield the fields that a setting names, as ``("properties", "ip")``."""
        for path in filter(None, (text.strip() for text in getattr(self, setting).split(","))):
            part, _, name = path.partition(".")
            yield part, name


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
    # variable with the address of a PostgreSQL, MySQL or MariaDB database for the ledger; empty: an
    # SQLite file
    # in the data directory
    ledger_url_env: Variable = ""
