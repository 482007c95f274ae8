"""``tactful keys``: make, list and revoke API keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from tactful.cli.options import config_option, data_option, json_option
from tactful.config.load import load_settings
from tactful.metadata.connections import open_keys


@click.group()
def keys() -> None:
    """Create, list and revoke API keys."""


def _key_store(config: Path | None, data: Path | None) -> Any:
    return open_keys(load_settings(config, overrides={"storage.data": data}))


@keys.command("create")
@config_option
@data_option
@click.option(
    "--scope", "scopes", multiple=True, required=True, help="Scope of the key; may be repeated."
)
@click.option("--note", default="", help="Note, such as owner and purpose of the key.")
@json_option
def keys_create(
    config: Path | None, data: Path | None, scopes: tuple[str, ...], note: str, as_json: bool
) -> None:
    """Create a key and print it once."""
    with _key_store(config, data) as (_, store):
        key, about = store.create(scopes, note=note)
    if as_json:
        _print({"key": key, "id": about.id, "scopes": sorted(about.scopes)})
    else:
        click.echo(key)
        click.echo("Keep it now: only its hash is stored.", err=True)


@keys.command("list")
@config_option
@data_option
@json_option
def keys_list(config: Path | None, data: Path | None, as_json: bool) -> None:
    """List ids, states, scopes and notes of the keys."""
    with _key_store(config, data) as (_, store):
        known = store.list()
    if as_json:
        _print([{**msgspec.to_builtins(key), "scopes": sorted(key.scopes)} for key in known])
        return
    for key in known:
        state = "valid" if key.revoked_at is None else "revoked"
        click.echo(f"{key.id}  {state:<7}  {','.join(sorted(key.scopes))}  {key.note}")


@keys.command("revoke")
@config_option
@data_option
@click.argument("key_id")
def keys_revoke(config: Path | None, data: Path | None, key_id: str) -> None:
    """Revoke a key; a running server refuses it within a second."""
    with _key_store(config, data) as (_, store):
        store.revoke(key_id)
    click.echo(f"{key_id} is revoked.", err=True)


def _print(value: Any) -> None:
    click.echo(msgspec.json.encode(value))
