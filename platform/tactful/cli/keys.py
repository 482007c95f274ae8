"""``tactful keys``: make, list and revoke API keys; print the key that verifies signatures."""

from __future__ import annotations

import click
import msgspec

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.metadata.audit import AuditTrail
from tactful.metadata.connections import open_keys
from tactful.models.audit_log import login_and_host
from tactful.util.clock import now_ms
from tactful.util.signing import open_signing_key


@click.group()
def keys() -> None:
    """Create, list and revoke API keys; print the public key of signatures."""


@keys.command("create", epilog=cli.example("tactful keys create --scope ingest --note shop"))
@cli.with_settings
@click.option(
    "--scope", "scopes", multiple=True, required=True, help="Scope of the key; may be repeated."
)
@click.option(
    "--note", default="", show_default=False, help="Note, such as owner and purpose of the key."
)
@cli.json_option
def keys_create(settings: Settings, scopes: tuple[str, ...], note: str, as_json: bool) -> None:
    """Create a key and print it once."""
    with open_keys(settings) as (metadata, store):
        key, about = store.create(scopes, note=note)
        record = AuditTrail(metadata, clock=now_ms).record_change
        record(login_and_host(), "key.create", f"key {about.id}", " ".join(sorted(about.scopes)))
    if as_json:
        cli.print_json({"key": key, "id": about.id, "scopes": sorted(about.scopes)})
    else:
        click.echo(key)
        click.echo("Keep it now: only its hash is stored.", err=True)


@keys.command("list", epilog=cli.example("tactful keys list"))
@cli.with_settings
@cli.json_option
def keys_list(settings: Settings, as_json: bool) -> None:
    """List ids, states, scopes and notes of the keys."""
    with open_keys(settings) as (_, store):
        known = store.list()
    if as_json:
        rows = [{**msgspec.to_builtins(key), "scopes": sorted(key.scopes)} for key in known]
        cli.print_json([{k: v for k, v in row.items() if k != "person"} for row in rows])
        return
    if not known:
        click.echo("There are no keys: `tactful keys create` makes one.", err=True)
    for key in known:
        state = "valid" if key.revoked_at is None else "revoked"
        click.echo(f"{key.id}  {state:<7}  {','.join(sorted(key.scopes))}  {key.note}")


@keys.command("revoke", epilog=cli.example("tactful keys revoke 5f0c2a91"))
@cli.with_settings
@click.argument("key_id")
@cli.json_option
def keys_revoke(settings: Settings, key_id: str, as_json: bool) -> None:
    """Revoke a key; a running server refuses it within a second."""
    with open_keys(settings) as (metadata, store):
        store.revoke(key_id)
        record = AuditTrail(metadata, clock=now_ms).record_change
        record(login_and_host(), "key.revoke", f"key {key_id}")
    if as_json:
        cli.print_json({"id": key_id, "revoked": True})
    else:
        click.echo(f"{key_id} is revoked.", err=True)


@keys.command("public", epilog=cli.example("tactful keys public > installation.pem"))
@cli.with_settings
@cli.json_option
def keys_public(settings: Settings, as_json: bool) -> None:
    """Print the public key that verifies backups and models of this installation."""
    with open_keys(settings):
        key = open_signing_key(settings.storage.data)
    if as_json:
        cli.print_json({"key": key.public})
    else:
        click.echo(key.pem.decode(), nl=False)
