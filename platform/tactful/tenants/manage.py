"""Tenants of an installation in its directory: made, listed, removed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tactful.config.load import load_tenant
from tactful.config.settings import Settings
from tactful.config.tenants import FILE, check_name, places, tenant_names, tenants_directory
from tactful.errors import ConfigError, TactfulError
from tactful.metadata.directory_lock import exclusive
from tactful_privacy.durable_files import sync

_TEMPLATE = """\
# Settings of the tenant {name} alone. Sections server, limits and logging are those of the
# installation; nothing else is inherited.
#
# [limits]
# event_rate = 500.0        # events a second
# request_rate = 200.0      # requests a second
# [engine]
# memory_mb = 256           # memory for users and visits; without it, an equal share
"""
_REMOVED = ".removed-"


@dataclass(frozen=True)
class TenantInfo:
    """A tenant in the directory."""

    name: str
    folder: str
    bytes: int  # size of its files
    problem: str = ""  # what is wrong with its settings; empty if nothing


def add_tenant(settings: Settings, name: str) -> Path:
    """Make the folder of a tenant; a running server serves it after its next start.

    Raises:
        ConfigError: if the name is no name, or is taken.
    """
    folder = tenants_directory(settings) / check_name(name)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError as error:
        raise ConfigError(f"{folder} exists: choose another name") from error
    (folder / FILE).write_text(_TEMPLATE.format(name=name), encoding="utf-8")
    (folder / "data").mkdir(mode=0o700)
    (folder / "reports").mkdir(mode=0o700)
    sync(folder)
    sync(folder.parent)
    return folder


def list_tenants(settings: Settings) -> list[TenantInfo]:
    """List all tenants, in the order of their names."""
    return [_describe(settings, name) for name in tenant_names(settings)]


def remove_tenant(settings: Settings, name: str, *, stores_removed: bool) -> None:
    """Delete everything in the folder of a tenant.

    Args:
        settings: settings of the installation.
        name: the tenant.
        stores_removed: whether topics, databases and Redis keys outside the folder are deleted.

    Raises:
        ConfigError: if there is no such tenant.
        TactfulError: if it keeps data elsewhere that is not deleted yet.
        StorageError: if a server uses its data.
    """
    tenant = load_tenant(settings, name)
    folder = tenants_directory(settings) / name
    if (kept := places(tenant)) and not stores_removed:
        kinds = ", ".join(sorted({kind for kind, _ in kept}))
        raise TactfulError(
            f"the tenant {name!r} keeps data outside of {folder} ({kinds}): delete these first, "
            "then run this again with --stores-removed"
        )
    removed = folder.with_name(f"{_REMOVED}{name}")
    with exclusive(tenant.storage.data):
        _empty(settings)
        # In one step: a kill from here on leaves a folder that no server reads.
        folder.rename(removed)
        sync(folder.parent)
    _empty(settings)


def _empty(settings: Settings) -> None:
    """Delete the folders of removed tenants, also of a removal that was killed."""
    for folder in tenants_directory(settings).glob(f"{_REMOVED}*"):
        shutil.rmtree(folder)


def _describe(settings: Settings, name: str) -> TenantInfo:
    folder = tenants_directory(settings) / name
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    try:
        load_tenant(settings, name)
    except ConfigError as error:
        return TenantInfo(name, str(folder), size, str(error))
    return TenantInfo(name, str(folder), size)
