"""Settings of tenants: nothing that names a place is inherited, and no place is shared."""

from __future__ import annotations

from pathlib import Path

import pytest

from tactful.config.load import load_settings, load_tenant
from tactful.config.settings import Settings
from tactful.config.tenants import check_apart, tenant_names
from tactful.errors import ConfigError

MAIN = """
[tenants]
directory = "tenants"
[storage]
data = "elsewhere"
durability = "process"
[consent]
tombstones = "tombstones"
[actions]
webhook_url = "https://shop.example/actions"
[metadata]
url_env = "DATABASE"
[limits]
batch = 7
[oidc]
issuer = "https://issuer.example"
client_id = "c"
admin_groups = "all"
"""


def installation(folder: Path, **files: str) -> Settings:
    (folder / "tactful.toml").write_text(MAIN)
    for name, text in files.items():
        own = folder / "tenants" / name
        own.mkdir(parents=True)
        (own / "tactful.toml").write_text(text)
    return load_settings(folder / "tactful.toml", environ={})


def test_a_tenant_inherits_the_process_alone(tmp_path: Path) -> None:
    settings = installation(tmp_path, a="[engine]\nfeatures = 'f.yaml'\n", b="")
    assert tenant_names(settings) == ["a", "b"]
    tenant = load_tenant(settings, "a", overrides={"server.port": 5})
    folder = tmp_path / "tenants" / "a"
    assert tenant.storage.data == folder / "data"
    assert tenant.features == folder / "f.yaml"
    assert (tenant.limits.batch, tenant.server.port) == (7, 5)
    assert tenant.storage.durability == "process"
    fresh = Settings()
    for section in ("consent", "actions", "metadata", "oidc"):
        assert getattr(tenant, section) == getattr(fresh, section), section
    other = load_tenant(settings, "b")
    for name in ("log.topic", "online.prefix", "flink.entities_topic", "worker.group"):
        section, key = name.split(".")
        values = [getattr(getattr(it, section), key) for it in (tenant, other)]
        assert values[0] != values[1]
    check_apart([tenant, other])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nport = 1\n", "server.port is not of a tenant"),
        ("[server]\ndev = true\n", "server.dev is not of a tenant"),
        ("[storage]\ndata = '/x'\n", "storage.data is not of a tenant"),
        ("[logging]\nlevel = 'debug'\n", "logging.level is not of a tenant"),
        ("[tenants]\ndirectory = 'x'\n", "tenants.directory is not of a tenant"),
        ("[engin]\n", "did you mean 'engine'"),
    ],
)
def test_settings_of_the_process_are_refused(tmp_path: Path, text: str, message: str) -> None:
    settings = installation(tmp_path, a=text)
    with pytest.raises(ConfigError, match=message):
        load_tenant(settings, "a")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("[metadata]\nurl_env = '{name}'\n", "a database"),
        ("[log]\nkind = 'kafka'\nbrokers = 'k:9092'\ntopic = 'one'\n", "a topic"),
        ("[online]\nkind = 'redis'\nprefix = 'one'\n", "the keys in Redis"),
        ("[privacy]\nvault = '../vault.db'\n", "privacy.vault"),
    ],
)
def test_shared_places_are_refused(tmp_path: Path, text: str, kind: str) -> None:
    """Also a database that two variables name."""
    settings = installation(tmp_path, a=text.format(name="ONE"), b=text.format(name="TWO"))
    environ = {"ONE": "postgresql://h/d", "TWO": "postgresql://h/d", "TACTFUL_REDIS_URL": "r"}
    tenants = [load_tenant(settings, name) for name in ("a", "b")]
    with pytest.raises(ConfigError, match=f"'a' and 'b' share {kind}"):
        check_apart(tenants, environ)


@pytest.mark.parametrize("name", ["", "../a", "A", "a/b", "a" * 33, "-a"])
def test_names_are_no_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name of a tenant"):
        load_tenant(installation(tmp_path), name)
