"""``tactful domains``: keys of this domain, with which profiles cross to and from others.

The commands of `match` belong to the same group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.cli.domains import match
from tactful.config.settings import Settings
from tactful.domains.keys import DomainKey, add_key, drop_old_key, make_keys, read_keys
from tactful.errors import ConfigError
from tactful.metadata.audit import AuditTrail
from tactful.metadata.connections import open_keys
from tactful.models.audit_log import login_and_host
from tactful.util.clock import now_ms


@click.group()
def domains() -> None:
    """Manage keys of this domain, and find people that another domain knows, too."""


for command in (match.ask, match.answer, match.matches):
    domains.add_command(command)


@domains.command("init", epilog=cli.example("tactful domains init"))
@cli.with_settings
@cli.json_option
def domains_init(settings: Settings, as_json: bool) -> None:
    """Make the key of this domain and print its public part for the other domains."""
    _change(settings, "domain.key-create", make_keys, as_json=as_json)


@domains.command("show", epilog=cli.example("tactful domains show"))
@cli.with_settings
@cli.json_option
def domains_show(settings: Settings, as_json: bool) -> None:
    """Print the public keys of this domain, as other domains list them in [domains.peers]."""
    _check_name(settings)
    _print(settings, read_keys(settings.domain_keys), as_json=as_json)


@domains.command(
    "rotate", epilog=cli.example("tactful domains rotate", "tactful domains rotate --finish")
)
@cli.with_settings
@click.option("--finish", is_flag=True, help="Sign with the new key and delete the old one.")
@cli.json_option
def domains_rotate(settings: Settings, finish: bool, as_json: bool) -> None:
    """Add a key; once all other domains list it, replace the old one by it with --finish.

    A running server uses the keys within a second. No profile is refused meanwhile: both keys open
    tokens, and the old one signs until the end.
    """
    if finish:
        _change(settings, "domain.key-delete", _without_time(drop_old_key), as_json=as_json)
    else:
        _change(settings, "domain.key-add", add_key, as_json=as_json)


def _without_time(
    drop: Callable[[Path], list[DomainKey]],
) -> Callable[[Path, int], list[DomainKey]]:
    return lambda path, now: drop(path)


def _change(
    settings: Settings,
    action: str,
    change: Callable[[Path, int], list[DomainKey]],
    *,
    as_json: bool,
) -> None:
    """Change the keys, record the change and print the public keys."""
    _check_name(settings)
    with open_keys(settings) as (metadata, _):
        keys = change(settings.domain_keys, now_ms())
        record = AuditTrail(metadata, clock=now_ms).record_change
        record(login_and_host(), action, settings.domains.name, keys[-1].public[:16])
    _print(settings, keys, as_json=as_json)


def _check_name(settings: Settings) -> None:
    if not settings.domains.name:
        raise ConfigError("domains.name is not set: name this domain in [domains]")


def _print(settings: Settings, keys: Sequence[DomainKey], *, as_json: bool) -> None:
    name, newest_first = settings.domains.name, [key.public for key in reversed(keys)]
    if as_json:
        cli.print_json({"name": name, "keys": newest_first})
        return
    listed = ", ".join(f'"{key}"' for key in newest_first)
    quoted = name if name.isascii() else f'"{name}"'  # TOML has bare keys in ASCII only
    click.echo(f"{quoted} = [{listed}]")
