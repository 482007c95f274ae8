"""Settings of several shops in one installation: a folder of each, with its own settings file.

::

    tactful.toml            [tenants] directory = "tenants"; server, limits, logging of the process
    tenants/
        books/
            tactful.toml    settings of this shop alone
            data/           its data directory
            reports/
            mlflow.db
        shoes/ ...

A tenant inherits the sections `server`, `limits` and `logging`, and `storage.durability`. It
inherits nothing that names a place: files, topics, databases, webhooks and identity providers are
its own or none. Topics and Redis keys without a name in its file begin with its own name.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tactful.errors import ConfigError

if TYPE_CHECKING:
    from tactful.config.settings import Settings

FILE = "tactful.toml"
"""Settings file in the folder of a tenant."""

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_OF_A_TENANT = frozenset(
    {
        "cors_origins",
        "recommend_queue",
        "recommend_wait_s",
        "recommend_standing_s",
        "after_wait_s",
    }
)
"""Settings of the section `server` that a tenant may change; the others are of the process."""

_OWN_FOLDER = ("data", "models", "reports")
_INHERITED = ("server", "limits")
_OF_THE_PROCESS = ("tenants", "logging")


@dataclass(frozen=True)
class TenantSettings:
    """Settings of the tenants of an installation."""

    # directory with a folder of each tenant; empty: one shop, without tenants
    directory: Path = Path()
    # name of the tenant whose settings these are; the server and `--tenant` set it
    name: str = ""


def check_name(name: str) -> str:
    """Return a name of a tenant, or raise `ConfigError`."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name of a tenant: use 1 to 32 lower-case letters, digits and hyphens, "
            "a letter first"
        )
    return name


def tenants_directory(settings: Settings) -> Path:
    """Return the directory of the tenants; ConfigError if the installation has none."""
    directory = settings.tenants.directory
    if directory == Path():
        raise ConfigError(
            "this installation has no tenants: set tenants.directory to the directory of their "
            "folders"
        )
    return directory


def tenant_names(settings: Settings) -> list[str]:
    """Return the names of all tenants, in order."""
    directory = tenants_directory(settings)
    if not directory.is_dir():
        return []
    return sorted(p.name for p in directory.iterdir() if p.is_dir() and _NAME.fullmatch(p.name))


def tenant_values(
    settings: Settings, name: str, own: Mapping[tuple[str, str], Any], file: Path
) -> dict[tuple[str, str], Any]:
    """Return the values of a tenant's settings, by section and key.

    Args:
        settings: settings of the installation.
        name: name of the tenant.
        own: values of its file.
        file: that file, for messages.

    Raises:
        ConfigError: if the file names what belongs to the process or to another tenant.
    """
    for section, key in own:
        if (
            section in _OF_THE_PROCESS
            or (section == "server" and key not in _OF_A_TENANT)
            or (section == "storage" and key in _OWN_FOLDER)
        ):
            raise ConfigError(
                f"{file}: {section}.{key} is not of a tenant: set it in the settings file of the "
                "installation, or leave it out"
            )
    folder = file.parent
    inherited: dict[tuple[str, str], Any] = {
        (section, field.name): getattr(getattr(settings, section), field.name)
        for section in (*_INHERITED, "logging")
        for field in dataclasses.fields(getattr(settings, section))
    }
    prefix = f"tactful-{name}"
    return {
        **inherited,
        ("storage", "durability"): settings.storage.durability,
        ("log", "topic"): f"{prefix}-log",
        ("flink", "entities_topic"): f"{prefix}-entities",
        ("flink", "erased_topic"): f"{prefix}-erased",
        ("worker", "group"): f"{prefix}-worker",
        ("online", "prefix"): prefix,
        **own,
        ("storage", "data"): folder / "data",
        ("storage", "reports"): folder / "reports",
        ("tenants", "directory"): settings.tenants.directory,
        ("tenants", "name"): name,
    }


def model_store(settings: Settings) -> dict[str, str]:
    """Return the environment by which MLflow keeps a tenant's runs and models in its folder."""
    folder = settings.storage.data.absolute().parent
    return {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        # MLflow has no other way to place the artefacts of a store in a file.
        "_MLFLOW_SERVER_ARTIFACT_ROOT": (folder / "mlruns").as_uri(),
    }


def check_apart(tenants: Sequence[Settings], environ: Mapping[str, str] = os.environ) -> None:
    """Raise `ConfigError` if two tenants use one file, topic, database or prefix of keys."""
    owners: dict[tuple[str, str], str] = {}
    for settings in tenants:
        name = settings.tenants.name
        for kind, place in places(settings, environ):
            other = owners.setdefault((kind, place), name)
            if other != name:
                raise ConfigError(
                    f"the tenants {other!r} and {name!r} share {kind}: give each its own in its "
                    f"{FILE}"
                )


def places(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[tuple[str, str]]:
    """Return kind and address of each place outside its folder where a tenant keeps data."""
    files = {
        "consent.keyring": settings.consent.keyring,
        "consent.tombstones": settings.consent.tombstones,
        "privacy.vault": settings.privacy.vault,
        "domains.keys": settings.domains.keys,
        "worker.checkpoints": settings.worker.checkpoints,
    }
    found = [(kind, str(path.resolve())) for kind, path in files.items() if path != Path()]
    databases = {settings.metadata.url_env, settings.statistics.ledger_url_env} - {""}
    found += [("a database", environ.get(variable, variable)) for variable in sorted(databases)]
    if not settings.log.in_files:
        names = {
            settings.log.topic,
            settings.flink.entities_topic,
            settings.flink.erased_topic,
            settings.worker.fired_topic,
            settings.worker.late_topic,
        }
        found += [("a topic", f"{settings.log.brokers}/{it}") for it in sorted(names - {""})]
    if settings.online.shared:
        address = environ.get(settings.online.url_env, "")
        found.append(("the keys in Redis", f"{address}/{settings.online.prefix}"))
    return found
