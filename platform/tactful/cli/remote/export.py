"""``tactful export``: recommendations and segments to a webhook or to Redis."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from tactful.cli import options as cli
from tactful.client import Client
from tactful.client.recommend_file import read_users
from tactful.config.settings import secret
from tactful.errors import ConfigError
from tactful.exports.rows import members, recommended
from tactful.exports.run import Export, Rows, state_directory
from tactful.exports.run import export as run_export
from tactful.exports.targets import open_target
from tactful.schemas.recommendations import RecommendRequest
from tactful_bandits.assignment.conditions import Condition, require_condition
from tactful_bandits.errors import DefinitionError
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_privacy.people.consent import Purpose

_DAY_S = 86_400
_SHOWN = 20

_delivery_options = cli.with_options(
    click.option(
        "--users",
        type=cli.existing_file,
        required=True,
        help="File of user ids, one a line or a CSV column user_id.",
    ),
    click.option(
        "--to", "address", required=True, help="https://… to post to, or redis://…#prefix of keys."
    ),
    click.option("--rate", type=click.FloatRange(0.1, 1e5), default=100.0, help="Users a second."),
    click.option("--ttl-days", type=click.FloatRange(0.01, 365), default=7.0, help="Life of keys."),
    click.option(
        "--secret-env", default="", show_default=False, help="Variable with the signing secret."
    ),
    click.option("--attempts", type=click.IntRange(1, 20), default=6, help="Attempts of a post."),
    cli.url_option,
    cli.key_file_option,
    cli.json_option,
)


@dataclass(frozen=True)
class Delivery:
    """Options of a delivery."""

    users: Path
    address: str
    rate: float
    ttl_days: float
    secret_env: str
    attempts: int
    url: str
    key_file: Path | None
    as_json: bool


@click.group()
def export() -> None:
    """Deliver recommendations or a segment of users to a webhook or to Redis."""


@export.command(
    "recommendations",
    epilog=cli.example(
        "tactful export recommendations --users customers.csv --to https://mail.example/hook"
    ),
)
@_delivery_options
@click.option("--count", type=click.IntRange(1, 200), default=10)
@click.option("--category", help="Only items of this category.")
@click.option("--page", help="Page or letter that shows them, for placement rules.")
@cli.grouped("delivery", Delivery)
def recommendations(delivery: Delivery, count: int, category: str | None, page: str | None) -> None:
    """Deliver recommendations of the users of a file; a killed run resumes."""
    context: dict[str, Any] = {} if page is None else {"page": page}
    request = RecommendRequest(count=count, category=category, context=context)
    problems: dict[str, str] = {}
    about = {"count": count, "category": category, "page": page}
    make = partial(recommended, request=request, problems=problems)
    _run("recommendations", about, make, problems, delivery)


@export.command(
    "segment",
    epilog=cli.example(
        "tactful export segment loyal --users customers.csv --to redis://localhost:6379/0"
        """ --where '{"visits_364d": {"$gte": 3}}'"""
    ),
)
@click.argument("name")
@_delivery_options
@click.option("--where", required=True, help='Condition on features: {"spend_28d": {"$gt": 100}}.')
@click.option(
    "--purpose",
    type=click.Choice([str(purpose) for purpose in Purpose]),
    default=str(Purpose.MARKETING),
    help="Purpose that members agreed to.",
)
@cli.grouped("delivery", Delivery)
def segment(delivery: Delivery, name: str, where: str, purpose: str) -> None:
    """Deliver who of the users of a file belongs to the segment NAME; a killed run resumes.

    A condition is in the language of experiments, as {"$or": […]} and {"visits_364d": {"$gte": 3}}.
    It needs a key with the scope `admin`.
    """
    if not name.isprintable() or not 1 <= len(name) <= 64 or set(name) & set(" :#/"):
        raise click.UsageError("a name has up to 64 characters, without blanks and : # /")
    condition = _condition(where)
    about = {"where": condition, "purpose": purpose}
    make = partial(members, condition=condition, purpose=purpose)
    _run(f"segment {name}", about, make, {}, delivery)


def _condition(text: str) -> Condition:
    try:
        condition = msgspec.json.decode(text, type=dict[str, Any])
        require_condition("--where", condition)
    except (*DECODE_ERRORS, DefinitionError) as error:
        raise ConfigError(f"--where is no condition: {error}") from error
    return condition


def _run(
    kind: str,
    request: dict[str, Any],
    make: Callable[[Client], Rows],
    problems: dict[str, str],
    delivery: Delivery,
) -> None:
    users, address = delivery.users, delivery.address
    people = read_users(users)
    signing = secret("--secret-env", delivery.secret_env)
    ttl_s, attempts = delivery.ttl_days * _DAY_S, delivery.attempts
    bar = cli.progress_bar(quiet=delivery.as_json, total=len(people), unit="user", desc=kind)
    with (
        open_target(address, kind, secret=signing, ttl_s=ttl_s, attempts=attempts) as target,
        Client(delivery.url, cli.api_key(delivery.key_file), tls=cli.trust()) as client,
        bar,
    ):
        done = run_export(
            Export(kind, people, address, request),
            make(client),
            target,
            state=state_directory(os.environ),
            rate=delivery.rate,
            advanced=bar.update,
        )
    if delivery.as_json:
        cli.print_json({"users": done.done, "rows": done.rows, "problems": len(problems)})
        return
    for user in [*problems][:_SHOWN]:
        number = people.index(user) + 1
        click.echo(f"{users}: user number {number}: {problems[user]}", err=True)
    click.echo(f"{done.rows:,} of {done.done:,} users delivered")
