"""Links of devices and users: from the settings to recommendations."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.streaming.memory_online import MemoryOnlineStore

from tactful.config.engine import IdentitySettings
from tactful.config.identity import identity_of
from tactful.config.load import load_settings
from tactful.errors import ConfigError
from tactful.pipeline.online_features import SharedFeatures, own_definitions
from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.state.store import MemoryState

DAY = 86_400_000
AT = 1_700_000_000_000


def test_every_setting_arrives(tmp_path: Path) -> None:
    assert identity_of(IdentitySettings()) == Identity()
    off = load_settings(environ={"TACTFUL_IDENTITY__ENABLED": "false"})
    assert identity_of(off.identity) is None
    file = tmp_path / "tactful.toml"
    file.write_text(
        '[identity]\nlogins = "x.signed_in , payment"\nlogouts = ""\nlink_days = 0.5\n'
        'devices_per_user = 3\nconsent = "required"\n'
    )
    assert identity_of(load_settings(file, environ={}).identity) == Identity(
        logins=frozenset({"x.signed_in", "payment"}),
        logouts=frozenset(),
        ttl_ms=DAY // 2,
        devices_per_user=3,
        consent_required=True,
    )


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (IdentitySettings(logins="login"), "identity.logins: 'login' is no type of event"),
        (IdentitySettings(logouts="x."), "identity.logouts: 'x.' is no type"),
        (IdentitySettings(logins="x.a", logouts="x.a, x.b"), "x.a cannot both begin and end"),
    ],
)
def test_what_makes_no_sense_is_named(wrong: IdentitySettings, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        identity_of(wrong)


def test_online_features_of_a_device_are_those_of_its_user() -> None:
    definitions = load_definitions(
        "- {name: views, entity: user, event: view, aggregate: count, window: {size: 1h}}\n"
        "- {name: seen, entity: item, event: view, aggregate: count, window: {size: 1h}}\n"
    )
    events = [
        Event(event_id="1", type="view", timestamp=AT, device_id="d", item_id="i"),
        Event(event_id="2", type="x.login", timestamp=AT + 1, device_id="d", user_id="u"),
        Event(event_id="3", type="view", timestamp=AT + 2, device_id="d", item_id="i"),
    ]
    records = [(offset, encode_entry(event)) for offset, event in enumerate(events)]
    online = MemoryOnlineStore()
    worker = Engine(definitions, MemoryState(), EngineOptions(online=online, identity=Identity()))
    own = Engine(own_definitions(definitions), MemoryState(), EngineOptions(identity=Identity()))
    for engine in (worker, own):
        engine.apply(records)
        engine.commit()
    shared = SharedFeatures(own, definitions, online)
    for key in ("u", "device:d"):
        assert shared.read("user", key, AT + 3) == {"views": 2}
        assert shared.read_columns("user", [key], ["views"], AT + 3).tolist() == [[2]]
    assert shared.read("user", "device:e", AT + 3) == {"views": 0}
