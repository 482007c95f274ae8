"""``tactful domains``: keys, and people whom two domains know, among those who consent alone."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.platform.domains import stand_in
from tests.platform.shop import write_log

from tactful.cli.main import main
from tactful.config.load import load_settings
from tactful.domains.keys import read_keys
from tactful.metadata.audit import AuditTrail
from tactful.metadata.connections import open_installation
from tactful.subjects.consent import open_consents
from tactful.util.clock import now_ms
from tactful_streaming.contract.log_entries import User

NAMES = ("shop", "magazine")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["domains", *(str(it) for it in arguments)])


def shown(name: str) -> Any:
    result = run("show", "--json", "--config", f"{name}.toml")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def domains(elsewhere: None) -> None:
    """Write the settings of two domains that know each other."""
    for name in NAMES:
        Path(f"{name}.toml").write_text(
            f'[storage]\ndata = "{name}-data"\n[consent]\ndefault = "assume"\n'
            f'[domains]\nname = "{name}"\n'
        )
        assert run("init", "--config", f"{name}.toml").exit_code == 0
    lines = {name: run("show", "--config", f"{name}.toml").stdout for name in NAMES}
    for name, other in (NAMES, NAMES[::-1]):
        with Path(f"{name}.toml").open("a") as file:
            file.write(f"[domains.peers]\n{lines[other]}")


def test_keys_are_made_shown_and_rotated(domains: None) -> None:
    (first,) = shown("shop")["keys"]
    refused = run("init", "--config", "shop.toml")
    assert refused.exit_code != 0 and "rotate" in refused.output
    assert run("rotate", "--config", "shop.toml").exit_code == 0
    newest, old = shown("shop")["keys"]
    assert old == first != newest
    settings = load_settings(Path("shop.toml"))
    assert read_keys(settings.domain_keys)[0].public == first, "it signs until the end"
    assert run("rotate", "--finish", "--config", "shop.toml").exit_code == 0
    assert shown("shop")["keys"] == [newest]
    with closing(open_installation(settings)) as metadata:
        entries, _ = AuditTrail(metadata, clock=now_ms).entries(action="domain")
    actions = [entry.action for entry in entries]
    assert actions == ["domain.key-delete", "domain.key-add", "domain.key-create"]


def test_without_a_name_there_are_no_keys(elsewhere: None) -> None:
    refused = run("init")
    assert refused.exit_code != 0 and "domains.name" in refused.output


def describe(name: str, people: dict[str, str], consenting: set[str]) -> None:
    """Put people with their addresses into a domain, some of whom let profiles cross."""
    settings = load_settings(Path(f"{name}.toml"))
    users = [
        User(user_id=person, timestamp=1, properties={"email": address})
        for person, address in people.items()
    ]
    write_log(settings.storage.data / "log", users).close()
    with closing(open_installation(settings)) as metadata:
        consents = open_consents(settings, metadata, clock=now_ms)
        consents.record_many({it: {"shop>magazine": True} for it in consenting}, source="test")


def test_only_people_who_consent_in_both_domains_match(
    domains: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without consent in either domain, or with an address of two people, nobody is found."""
    stand_in.install(monkeypatch)
    describe(
        "magazine",
        {"m-1": "ada@x.org", "m-2": "bob@x.org", "m-3": "eve@x.org", "m-4": "zoe@x.org"},
        {"m-1", "m-2", "m-4"},
    )
    describe(
        "shop",
        {
            "s-1": " ADA@x.org",
            "s-2": "bob@x.org",
            "s-3": "eve@x.org",
            "s-4": "zoe@x.org",
            "s-5": "zoe@x.org",
        },
        {"s-1", "s-3", "s-4", "s-5"},
    )
    asked = run("ask", "shop", "--to", "request.bin", "--config", "magazine.toml")
    assert asked.exit_code == 0, asked.output
    assert Path("request.bin.key").stat().st_mode & 0o777 == 0o600
    request = Path("request.bin").read_text()
    assert "ada@x.org" in request and "eve@x.org" not in request, "who refuses does not enter"
    answered = run(
        "answer", "magazine", "request.bin", "--to", "answer.bin", "--config", "shop.toml"
    )
    assert answered.exit_code == 0, answered.output
    private = Path("request.bin.key").read_bytes()
    assert b"m-1" not in private and b"ada" not in private, "it names nobody"
    arguments = ("answer.bin", "--key", "request.bin.key", "--json", "--config", "magazine.toml")
    matches = run("matches", *arguments)
    assert json.loads(matches.stdout) == {"people": ["m-1"]}
    assert not Path("request.bin.key").exists()
    settings = load_settings(Path("magazine.toml"))
    with closing(open_installation(settings)) as metadata:
        open_consents(settings, metadata, clock=now_ms).record(
            "m-1", {"shop>magazine": False}, source="test"
        )
        entries, _ = AuditTrail(metadata, clock=now_ms).entries(action="domain.match")
    assert len(entries) == 2, "the request, and the look at its answer"
    Path("request.bin.key").write_bytes(private)
    matches = run("matches", *arguments)
    assert json.loads(matches.stdout) == {"people": []}, "who withdrew since is left out"
    limited = run(
        "answer", "magazine", "request.bin", "--to", "a", "--most", 2, "--config", "shop.toml"
    )
    assert limited.exit_code != 0 and "1 to 2" in limited.output
    stranger = run("ask", "forum", "--to", "r", "--config", "magazine.toml")
    assert stranger.exit_code != 0 and "no domain 'forum'" in stranger.output
    wrong = run("ask", "shop", "--by", "email", "--to", "r", "--config", "magazine.toml")
    assert wrong.exit_code != 0 and "properties.NAME" in wrong.output


def test_a_missing_library_names_the_extra(domains: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, stand_in.NAME, None)
    describe("magazine", {"m-1": "ada@x.org"}, {"m-1"})
    refused = run("ask", "shop", "--to", "request.bin", "--config", "magazine.toml")
    assert refused.exit_code != 0 and "tactful[psi]" in refused.output
