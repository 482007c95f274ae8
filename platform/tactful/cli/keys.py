"""``tactful keys``: make, list, limit, rotate and revoke API keys; print the public key."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import click
import msgspec

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.metadata.api_keys import ApiKey, KeyLimits, KeyUse
from tactful.metadata.audit import AuditTrail
from tactful.metadata.connections import open_keys
from tactful.metadata.store import MetadataStore
from tactful.models.audit_log import login_and_host
from tactful.util.clock import now_ms
from tactful.util.signing import open_signing_key

_SPAN = re.compile(r"([0-9]{1,7})([dhm])")
_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000}
_LONGEST = 36_525 * 86_400_000


@click.group()
def keys() -> None:
    """Create, list, limit, rotate and revoke API keys; print the public key of signatures."""


class _Duration(click.ParamType[int]):
    """Time span such as 90d or 12h, in milliseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = _SPAN.fullmatch(str(value))
        if match is None:
            self.fail(f"{value!r} is no time span: write 90d, 12h or 30m", param, ctx)
        span = int(match[1]) * _UNITS[match[2]]
        if span > _LONGEST:
            self.fail(f"{value!r} is more than 100 years", param, ctx)
        return span


_limits = cli.with_options(
    click.option("--rate", type=float, help="Most requests a second."),
    click.option("--burst", type=int, help="Most requests at once; default: those of a second."),
    click.option("--requests-per-day", type=int, help="Most requests on a day (UTC)."),
    click.option("--events-per-day", type=int, help="Most events on a day (UTC)."),
)
_expires = click.option("--expires", type=_Duration(), help="Time until its end, such as 90d.")


@keys.command(
    "create",
    epilog=cli.example(
        "tactful keys create --scope ingest --note shop",
        "tactful keys create --scope recommend --expires 90d --rate 50 --requests-per-day 200000",
    ),
)
@cli.with_settings
@click.option(
    "--scope", "scopes", multiple=True, required=True, help="Scope of the key; may be repeated."
)
@click.option(
    "--note", default="", show_default=False, help="Note, such as owner and purpose of the key."
)
@_expires
@_limits
@cli.json_option
@cli.grouped("limits", KeyLimits)
def keys_create(
    settings: Settings,
    scopes: tuple[str, ...],
    note: str,
    expires: int | None,
    limits: KeyLimits,
    as_json: bool,
) -> None:
    """Create a key and print it once."""
    with open_keys(settings) as (metadata, store):
        key, about = store.create(scopes, note=note, lasts_ms=expires, limits=limits)
        _record(metadata, "key.create", about.id, _described(about))
    _print_key(key, about, as_json)


@keys.command("rotate", epilog=cli.example("tactful keys rotate 5f0c2a91 --overlap 7d"))
@cli.with_settings
@click.argument("key_id")
@click.option(
    "--overlap",
    type=_Duration(),
    default="7d",
    help="Time for which the old key stays valid; 0m ends it now.",
)
@_expires
@cli.json_option
def keys_rotate(
    settings: Settings, key_id: str, overlap: int, expires: int | None, as_json: bool
) -> None:
    """Create a key with scopes, note and limits of KEY_ID, which ends after the overlap.

    Without --expires it lasts as long as KEY_ID was to last.
    """
    with open_keys(settings) as (metadata, store):
        key, about = store.rotate(key_id, overlap_ms=overlap, lasts_ms=expires)
        _record(metadata, "key.rotate", key_id, f"by key {about.id}, {_described(about)}")
    _print_key(key, about, as_json)


@keys.command("limit", epilog=cli.example("tactful keys limit 5f0c2a91 --rate 20 --burst 100"))
@cli.with_settings
@click.argument("key_id")
@_limits
@cli.json_option
@cli.grouped("limits", KeyLimits)
def keys_limit(settings: Settings, key_id: str, limits: KeyLimits, as_json: bool) -> None:
    """Set the limits of a key; those that are not given are removed.

    A running server applies them within a second.
    """
    with open_keys(settings) as (metadata, store):
        store.limit(key_id, limits)
        _record(metadata, "key.limit", key_id, _limits_of(limits) or "no limits")
    if as_json:
        cli.print_json({"id": key_id, "limits": limits})
    else:
        click.echo(f"{key_id} has {_limits_of(limits) or 'no limits'}.", err=True)


@keys.command("list", epilog=cli.example("tactful keys list"))
@cli.with_settings
@cli.json_option
def keys_list(settings: Settings, as_json: bool) -> None:
    """List ids, states, scopes, last uses, ends and notes of the keys."""
    with open_keys(settings) as (_, store):
        known, uses, now = store.list(), store.uses(), now_ms()
    if as_json:
        rows = [
            {
                **msgspec.to_builtins(key),
                "scopes": sorted(key.scopes),
                "last_used": _day_of(uses.get(key.id)),
            }
            for key in known
        ]
        cli.print_json([{k: v for k, v in row.items() if k != "person"} for row in rows])
        return
    if not known:
        click.echo("There are no keys: `tactful keys create` makes one.", err=True)
    for key in known:
        used = _day_of(uses.get(key.id))
        parts = (
            f"{key.id}  {_state(key, now):<7}  {','.join(sorted(key.scopes))}",
            f"used {used}" if used else "not used",
            f"until {_moment(key.expires_at)}" if key.expires_at is not None else "",
            "" if key.limits is None else _limits_of(key.limits),
            key.note,
        )
        click.echo("  ".join(filter(None, parts)))


def _record(metadata: MetadataStore, action: str, key_id: str, detail: str) -> None:
    AuditTrail(metadata, clock=now_ms).record_change(
        login_and_host(), action, f"key {key_id}", detail
    )


def _print_key(key: str, about: ApiKey, as_json: bool) -> None:
    if as_json:
        row: dict[str, Any] = {"key": key, "id": about.id, "scopes": sorted(about.scopes)}
        if about.expires_at is not None:
            row["expires_at"] = about.expires_at
        if about.limits is not None:
            row["limits"] = about.limits
        cli.print_json(row)
        return
    click.echo(key)
    until = "" if about.expires_at is None else f" It is valid until {_moment(about.expires_at)}."
    click.echo(f"Keep it now: only its hash is stored.{until}", err=True)


def _described(key: ApiKey) -> str:
    """Return scopes, end and limits of a key, for the audit trail."""
    until = "" if key.expires_at is None else f"until {_moment(key.expires_at)}"
    limits = "" if key.limits is None else _limits_of(key.limits)
    return ", ".join(filter(None, (" ".join(sorted(key.scopes)), until, limits)))


def _limits_of(limits: KeyLimits) -> str:
    parts = []
    if limits.rate is not None:
        parts.append(f"{limits.rate:g} requests/s, {limits.most_at_once} at once")
    if limits.requests_per_day is not None:
        parts.append(f"{limits.requests_per_day} requests/day")
    if limits.events_per_day is not None:
        parts.append(f"{limits.events_per_day} events/day")
    return ", ".join(parts)


def _state(key: ApiKey, now: int) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and now >= key.expires_at else "valid"


def _day_of(use: KeyUse | None) -> str | None:
    if use is None:
        return None
    return (dt.date(1970, 1, 1) + dt.timedelta(days=use.day)).isoformat()


def _moment(at: int) -> str:
    return f"{dt.datetime.fromtimestamp(at / 1000, dt.UTC):%Y-%m-%d %H:%M} UTC"


@keys.command("revoke", epilog=cli.example("tactful keys revoke 5f0c2a91"))
@cli.with_settings
@click.argument("key_id")
@cli.json_option
def keys_revoke(settings: Settings, key_id: str, as_json: bool) -> None:
    """Revoke a key; a running server refuses it within a second."""
    with open_keys(settings) as (metadata, store):
        store.revoke(key_id)
        _record(metadata, "key.revoke", key_id, "")
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
