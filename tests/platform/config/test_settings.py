"""Settings: sources, precedence, and messages about wrong values."""

from __future__ import annotations

from pathlib import Path

import pytest

from tactful.config.load import load_settings
from tactful.config.server import ServerSettings
from tactful.config.settings import Settings, secret
from tactful.errors import ConfigError
from tactful.util.addresses import is_loopback


def test_defaults_and_the_found_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(environ={})
    assert settings == Settings()
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8420)
    assert settings.storage.data == Path("tactful-data")
    assert settings.models == Path("tactful-data/models")
    assert settings.features.name == "features.yaml"
    Path("tactful.toml").write_text("[engine]\ncommit_ms = 50\n")
    assert load_settings(environ={}).engine.commit_ms == 50


def test_environment_beats_file_and_options_beat_both(tmp_path: Path) -> None:
    file = tmp_path / "tactful.toml"
    file.write_text(
        '[server]\nport = 1\nhost = "::1"\n[limits]\nbatch = 7\n[storage]\ndata = "d"\n'
    )
    settings = load_settings(
        file,
        environ={"TACTFUL_SERVER__PORT": "2", "TACTFUL_LIMITS__BATCH": "8", "TACTFUL_API_KEY": "x"},
        overrides={"server.port": 3, "server.host": None},
    )
    assert settings.server.port == 3
    assert settings.server.host == "::1"
    assert settings.limits.batch == 8
    assert settings.storage.data == tmp_path / "d", "paths in a file are relative to the file"


def test_a_variable_with_one_underscore_is_refused_and_others_are_not(tmp_path: Path) -> None:
    for name, meant in (
        ("TACTFUL_SERVER_PORT", "TACTFUL_SERVER__PORT"),
        ("TACTFUL_LIMITS_BODY_BYTES", "TACTFUL_LIMITS__BODY_BYTES"),
    ):
        with pytest.raises(ConfigError, match=rf"^{name}: not read; .* write {meant},"):
            load_settings(environ={name: "1"})
    others = ("TACTFUL_URL", "TACTFUL_API_KEY", "TACTFUL_REDIS_URL", "TACTFUL_SINK_TARGET")
    assert load_settings(environ=dict.fromkeys((*others, "SERVER_PORT"), "x")) == Settings()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server]\nprot = 1", ["server.prot", "did you mean 'port'"]),
        ("[sever]\nport = 1", ["[sever]", "did you mean 'server'"]),
        ("[server]\nport = 70000", ["server.port = 70000", "65535"]),
        ("[server]\nport = '80'", ["server.port", "int"]),
        ("[server]\nport = true", ["server.port", "int"]),
        ("[storage]\ndurability = 'none'", ["storage.durability", "none"]),
        ("[storage]\ndata = 3", ["storage.data", "path"]),
        ("server = 3", ["[server]"]),
        ("[server\nport = 1", ["not TOML", "line 1"]),
        ("[limits]\npending_bytes = 2048", ["limits.pending_bytes", "limits.body_bytes"]),
        ("[minimise]\nhash = 'email'", ["minimise.hash: 'email' is not a field"]),
        ("[minimise]\ndrop = 'item.x'", ["minimise.drop: 'item.x' is not a field"]),
        ("[minimise]\nhash = 'properties.'", ["minimise.hash: 'properties' is not a field"]),
        ("[minimise]\ntruncate_ip = ['context.ip']", ["minimise.truncate_ip", "expected str"]),
        ("[minimise]\nipv4_bits = 32", ["minimise.ipv4_bits = 32"]),
        ("[minimise]\ncell_km = 0.1", ["minimise.cell_km = 0.1"]),
        ("[minimise]\nhash = 'properties.price'", ["minimise.hash", "properties.price as it is"]),
        ("[minimise]\ndrop = 'context.consent'", ["minimise.drop", "context.consent as it is"]),
        (
            "[minimise]\nhash = 'context.a'\ndrop = 'context.b, context.a'",
            ["minimise.drop: context.a is named twice"],
        ),
        ("[minimise]\nlatitude = 'context.lat'", ["minimise.latitude and minimise.longitude"]),
        (
            "[minimise]\nlatitude = 'context.lat'\nlongitude = 'properties.lon'",
            ["minimise.latitude and minimise.longitude"],
        ),
        (("TACTFUL_MINIMISE__HASH", "properties.consent.marketing"), ["minimise.hash"]),
        (("TACTFUL_SERVER__PORTS", "1"), ["TACTFUL_", "did you mean 'port'"]),
        (("TACTFUL_SERVR__PORT", "1"), ["TACTFUL_", "did you mean 'server'"]),
        (("TACTFUL_SERVER__PORT", "many"), ["TACTFUL_SERVER__PORT = 'many'"]),
        (("TACTFUL_ENGINE__BATCH_MS", "-1"), ["TACTFUL_ENGINE__BATCH_MS"]),
        (("TACTFUL_LOGGING__LEVEL", "loud"), ["TACTFUL_", "loud"]),
        (
            ("TACTFUL_DOMAINS__PEERS", "{magazine"),
            ["TACTFUL_DOMAINS__PEERS = '{magazine'", "malformed"],
        ),
        (("TACTFUL_DOMAINS__PEERS", '{"shop": 1}'), ["TACTFUL_DOMAINS__PEERS", "expected array"]),
    ],
)
def test_wrong_keys(tmp_path: Path, text: str | tuple[str, str], expected: list[str]) -> None:
    file = tmp_path / "t.toml"
    file.write_text(text if isinstance(text, str) else "")
    with pytest.raises(ConfigError) as caught:
        load_settings(file, environ={} if isinstance(text, str) else dict([text]))
    for part in expected:
        assert part in str(caught.value)


def test_missing_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        load_settings(tmp_path / "nowhere.toml", environ={})
    (tmp_path / "latin.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"latin\.toml: not TOML"):
        load_settings(tmp_path / "latin.toml", environ={})


def test_dev_is_allowed_on_loopback_only() -> None:
    for host in ("127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"):
        assert is_loopback(host)
        assert Settings(server=ServerSettings(host=host, dev=True)).server.dev
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org", "localhost.org"):
        with pytest.raises(ConfigError, match="disables API keys"):
            Settings(server=ServerSettings(host=host, dev=True))


_FLINK = {
    "TACTFUL_ENGINE__KIND": "flink",
    "TACTFUL_LOG__KIND": "kafka",
    "TACTFUL_LOG__BROKERS": "kafka:9092",
    "TACTFUL_ONLINE__KIND": "redis",
    "TACTFUL_IDENTITY__ENABLED": "false",
}


def test_flink_as_the_engine() -> None:
    settings = load_settings(environ=_FLINK | {"TACTFUL_FLINK__CLUSTER": "http://jobs:8081"})
    assert (settings.engine.kind, settings.flink.cluster) == ("flink", "http://jobs:8081")
    assert settings.flink.job == "tactful"
    assert settings.flink.entities_topic == "tactful-entities"
    assert settings.flink.erased_topic == "tactful-erased"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("LOG__KIND", "embedded", "log.kind = kafka"),
        ("ONLINE__KIND", "engine", "online.kind = redis"),
        ("IDENTITY__ENABLED", "true", "identity.enabled = false"),
        ("ENGINE__RULES", "rules.yaml", "engine.rules"),
        ("PRIVACY__SEALED_LOG", "true", "privacy.sealed_log = false"),
        ("FLINK__ERASED_TOPIC", "tactful-log", "three topics"),
        ("FLINK__CLUSTER", "jobs:8081", "http or https address"),
        ("FLINK__JOB", "", "length >= 1"),
    ],
)
def test_what_flink_cannot_do_is_refused(name: str, value: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_settings(environ=_FLINK | {f"TACTFUL_{name}": value})


def test_a_secret_is_in_a_variable_or_in_the_file_that_another_one_names(tmp_path: Path) -> None:
    file = tmp_path / "url"
    file.write_text(" redis://:word@there\n")
    read = {"NAME_FILE": str(file)}
    assert secret("a.b_env", "NAME", environ=read) == "redis://:word@there"
    assert secret("a.b_env", "NAME", environ={"NAME": "x"}) == "x"
    with pytest.raises(ConfigError, match=r"^a\.b_env: NAME and NAME_FILE are both set"):
        secret("a.b_env", "NAME", environ={**read, "NAME": "x"})
    with pytest.raises(ConfigError, match=r"^a\.b_env names .* NAME: it is not set, nor is NAME_F"):
        secret("a.b_env", "NAME", environ={})
    file.write_text("\n")
    with pytest.raises(ConfigError, match=r"^NAME_FILE names .*url, which is empty"):
        secret("a.b_env", "NAME", environ=read)
    file.unlink()
    with pytest.raises(ConfigError, match=r"^NAME_FILE names .*url, which cannot be read"):
        secret("a.b_env", "NAME", environ=read)
    assert load_settings(environ={"TACTFUL_REDIS_URL_FILE": str(file)}) == Settings()
