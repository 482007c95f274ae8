"""Settings of domains: wrong names and keys are refused with the key of the setting."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tactful.config.load import load_settings
from tactful.config.settings import Settings
from tactful.errors import ConfigError
from tactful.models.schedule import environment

KEY = base64.urlsafe_b64encode(bytes(range(64))).decode()


def read(folder: Path, text: str) -> Settings:
    path = folder / "tactful.toml"
    path.write_text(text, "utf-8")
    return load_settings(path, environ={})


def test_pairs_are_those_with_the_own_domain(tmp_path: Path) -> None:
    path = tmp_path / "tactful.toml"
    path.write_text(
        f'[domains]\nname = "shop"\n[domains.peers]\n"杂志" = ["{KEY}"]\n'
        f'forum = ["{KEY}", "{KEY}"]\n',
        "utf-8",
    )
    domains = load_settings(path, environ={}).domains
    assert domains.pairs == {"shop>杂志", "杂志>shop", "shop>forum", "forum>shop"}
    assert [*domains.keys_of("forum")] == [(bytes(range(32)), bytes(range(32, 64)))] * 2
    assert load_settings(environ={}).domains.pairs == frozenset()
    settings = load_settings(path, environ={})
    variables = {k: v for k, v in environment(settings).items() if "DOMAINS" in k}
    assert load_settings(environ=variables).domains == domains, "as a process gets them"
    with pytest.raises(ConfigError, match="TACTFUL_DOMAINS__PEERS"):
        load_settings(environ={"TACTFUL_DOMAINS__PEERS": "shop", "TACTFUL_DOMAINS__NAME": "x"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[domains]\nname = "a b"', r"domains\.name: 'a b' is no name"),
        ('[domains]\nname = "a>b"', r"domains\.name"),
        (f'[domains.peers]\nshop = ["{KEY}"]', r"domains\.name is missing"),
        (f'[domains]\nname = "shop"\npeers = {{shop = ["{KEY}"]}}', "this domain itself"),
        ('[domains]\nname = "shop"\npeers = {"a/b" = ["x"]}', r"domains\.peers: 'a/b'"),
        ('[domains]\nname = "shop"\npeers = {forum = []}', r"domains\.peers\.forum has no key"),
        ('[domains]\nname = "shop"\npeers = {forum = ["x"]}', r"domains\.peers\.forum: .*show"),
        ('[domains]\nname = "shop"\npeers = {forum = "x"}', r"domains\.peers = "),
        (f'[domains]\nname = "shop"\npeers = {{forum = ["{KEY[4:]}"]}}', "no public key"),
        ("[domains]\nminimum_people = 3", r"domains\.minimum_people = 3"),
        ('[domains]\nnmae = "shop"', "did you mean 'name'"),
    ],
)
def test_wrong_settings_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(tmp_path, text)
