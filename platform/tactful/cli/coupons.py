"""Commands around coupons: ``tactful coupons check``, ``report``, ``fit`` and ``uninstall``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import click
import numpy as np

from tactful.bandits.definitions import BanditDefinition, load_bandits
from tactful.bandits.store import BanditStore
from tactful.cli import options as cli
from tactful.config.load import load_settings
from tactful.config.settings import Settings
from tactful.coupons.definitions import CouponDefinition, load_coupons
from tactful.coupons.gain_fit import LEAST_USERS, GainFit, choose_gain, drawn_users
from tactful.coupons.gain_model import FOLDER, write_gain
from tactful.coupons.report import CouponOutcomes, lift, read_coupon_outcomes
from tactful.errors import ConfigError
from tactful.metadata.audit import AuditTrail
from tactful.metadata.connections import open_installation
from tactful.models.audit_log import login_and_host
from tactful.subjects.consented_log import measured_log
from tactful.util.clock import now_ms
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import DefinitionError

_HOUR = 3_600_000

_share = click.FloatRange(0, 1, min_open=True)
_margin_option = click.option(
    "--margin", type=_share, default=0.3, help="Profit margin: share of the revenue."
)
_positive = click.FloatRange(0, min_open=True)
_hours_option = click.option(
    "--hours", type=_positive, default=168.0, help="Hours of purchases after a decision."
)


@click.group()
def coupons() -> None:
    """Check coupon campaigns, report their effect, and learn weights for users."""


@coupons.command("check", epilog=cli.example("tactful coupons check coupons.yaml"))
@cli.config_option
@click.argument("file", type=cli.existing_file)
@cli.json_option
def check(config: Path | None, file: Path, as_json: bool) -> None:
    """Check the campaigns in FILE against actions, features and the values of bandits."""
    with cli.reported_as(ConfigError, DefinitionError):
        definitions = load_definitions((settings := load_settings(config)).features)
    campaigns = load_coupons(file, definitions=definitions)
    if any(campaign.bandit for campaign in campaigns):
        load_coupons(file, bandits=_bandits(settings))
    if as_json:
        cli.print_json(campaigns)
        return
    if not campaigns:
        click.echo(f"{file} has no campaigns.", err=True)
    for each in campaigns:
        click.echo(
            f"{each.name}: on {each.action}, {each.holdout:.0%} held out, at most "
            f"{each.budget.amount:g} in all"
            + (f", value by bandit {each.bandit}" if each.bandit else "")
        )


@coupons.command("report", epilog=cli.example("tactful coupons report abandoned-cart --margin 0.3"))
@cli.with_settings
@click.argument("name")
@_margin_option
@_hours_option
@cli.json_option
def report(settings: Settings, name: str, margin: float, hours: float, as_json: bool) -> None:
    """Report the effect of the campaign NAME against the held-out users, at any time."""
    campaign, seen = _read(settings, name, hours)
    found = lift(seen, campaign, margin=margin)
    if found is None:
        click.echo("null" if as_json else "Too few people yet: nothing to compare.")
        return
    metrics = (("revenue", found.revenue), ("profit", found.profit))
    if as_json:
        effects = {
            metric: {
                "difference": compared.difference,
                "low": compared.anytime.low,
                "high": compared.anytime.high,
                "conclusive": compared.conclusive,
            }
            for metric, compared in metrics
        }
        mismatch = found.sample_ratio.mismatch
        cli.print_json({"sample_ratio_mismatch": mismatch, "cap": found.cap, **effects})
        return
    if found.sample_ratio.mismatch:
        click.echo("NOT as many people are held out as should be: find out why first.")
    for metric, compared in metrics:
        low, high = compared.anytime.low, compared.anytime.high
        verdict = "" if compared.conclusive else ", inconclusive"
        click.echo(
            f"{metric} a person: {compared.difference:+.4f} [{low:+.4f}, {high:+.4f}]{verdict}"
        )
    if found.cap is not None:
        click.echo(f"At most {found.cap:g} of what a person spent counts.")


@coupons.command("fit", epilog=cli.example("tactful coupons fit abandoned-cart --install"))
@cli.with_settings
@click.argument("name")
@_margin_option
@_hours_option
@click.option("--seed", type=click.IntRange(min=0), default=0)
@click.option("--install", is_flag=True, help="Decide with the chosen model from now on.")
@cli.json_option
def fit(
    settings: Settings,
    name: str,
    margin: float,
    hours: float,
    seed: int,
    install: bool,
    as_json: bool,
) -> None:
    """Learn the gain of a coupon of NAME by user, and choose between two kinds of models.

    The linear model stays unless a forest ranks users better whom neither was learnt from.
    """
    campaign, seen = _read(settings, name, hours)
    users = drawn_users(seen, margin=margin)
    if users is None:
        raise ConfigError(f"{name}: nobody was offered a coupon by chance and nobody held out yet")
    if not np.isfinite(users.features).all():
        raise ConfigError(f"{name}: a logged feature is not finite: leave it out of `features`")
    found = choose_gain(
        users, campaign.features, campaign=name, margin=margin, at=now_ms(), seed=seed
    )
    if install:
        chosen = found.chosen
        with contextlib.closing(open_installation(settings)) as metadata:
            record = AuditTrail(metadata, clock=now_ms).record_change
            detail = f"{chosen.kind}, learnt from {chosen.users} users"
            record(login_and_host(), "coupons.install", f"gain of {name}", detail)
        write_gain(settings.storage.data / FOLDER, chosen)
    if as_json:
        cli.print_json(_told(found) | {"installed": install})
        return
    _print_fit(found)
    if install:
        click.echo("A running server decides with it within five seconds.", err=True)


@coupons.command("uninstall", epilog=cli.example("tactful coupons uninstall abandoned-cart"))
@cli.with_settings
@click.argument("name")
@cli.json_option
def uninstall(settings: Settings, name: str, as_json: bool) -> None:
    """Remove the installed model of NAME; the `gain` of its definition decides again."""
    _campaign(settings, name)
    path = settings.storage.data / FOLDER / f"{name}.json"
    if not path.exists():
        raise ConfigError(f"no model is installed for {name}: {path} does not exist")
    with contextlib.closing(open_installation(settings)) as metadata:
        record = AuditTrail(metadata, clock=now_ms).record_change
        record(login_and_host(), "coupons.uninstall", f"gain of {name}")
    path.unlink(missing_ok=True)
    if as_json:
        cli.print_json({"campaign": name, "installed": False})
    else:
        click.echo("A running server stops using it within five seconds.", err=True)


def _told(found: GainFit) -> dict[str, Any]:
    """Build the fields of a fit for scripts; `gain` holds the weights of the linear model."""
    compared = found.comparison
    return {
        "chosen": found.chosen.kind,
        "users": found.chosen.users,
        "gain": found.linear.weights,
        "comparison": None
        if compared is None
        else {
            "qini": {"linear": compared.qini_areas[0], "forest": compared.qini_areas[1]},
            "auuc": {"linear": compared.uplift_areas[0], "forest": compared.uplift_areas[1]},
            "qini_gain": [compared.qini_gain.low, compared.qini_gain.high],
            "auuc_gain": [compared.uplift_gain.low, compared.uplift_gain.high],
        },
        "fifths": [
            {
                "expected": group.expected,
                "measured": group.measured,
                "low": group.interval.low,
                "high": group.interval.high,
            }
            for group in found.groups
        ],
    }


def _print_fit(found: GainFit) -> None:
    compared = found.comparison
    if compared is None:
        click.echo(
            f"{found.chosen.users} drawn users: too few for a forest "
            f"({LEAST_USERS} with features, of both groups). The linear model stays."
        )
    else:
        for name, areas, gain in (
            ("Qini", compared.qini_areas, compared.qini_gain),
            ("AUUC", compared.uplift_areas, compared.uplift_gain),
        ):
            click.echo(
                f"{name} on other users: linear {areas[0]:.4g}, forest {areas[1]:.4g}, "
                f"difference [{gain.low:+.4g}, {gain.high:+.4g}]"
            )
        stays = "The forest is better." if compared.second_is_better else "The linear model stays."
        click.echo(stays)
    click.echo("Fifths of the users by expected gain, and their measured gain on other users:")
    for group in found.groups:
        low, high = group.interval.low, group.interval.high
        click.echo(
            f"  expected {group.expected:+.4f}  measured {group.measured:+.4f} "
            f"[{low:+.4f}, {high:+.4f}]"
        )
    weights = found.linear.weights.items()
    click.echo("gain: {" + ", ".join(f"{key}: {value:.6g}" for key, value in weights) + "}")


def _bandits(settings: Settings) -> dict[str, BanditDefinition]:
    """Return the bandits that were applied, and those that the next start applies, by key."""
    found: dict[str, BanditDefinition] = {}
    if settings.storage.data.is_dir():
        with contextlib.closing(open_installation(settings)) as metadata:
            found = {it.key: it.definition for it in BanditStore(metadata, clock=now_ms).all()}
    if (path := settings.bandits.definitions).name:
        found |= {it.key: it for it in load_bandits(path)}
    return found


def _campaign(settings: Settings, name: str) -> CouponDefinition:
    if settings.coupons.definitions == Path():
        raise ConfigError("coupons.definitions is empty: there are no campaigns here")
    campaigns = {campaign.name: campaign for campaign in load_coupons(settings.coupons.definitions)}
    if name not in campaigns:
        raise ConfigError(f"there is no campaign {name!r}; there are {', '.join(campaigns)}")
    return campaigns[name]


def _read(settings: Settings, name: str, hours: float) -> tuple[CouponDefinition, CouponOutcomes]:
    campaign = _campaign(settings, name)
    with measured_log(settings, clock=now_ms) as log:
        return campaign, read_coupon_outcomes(
            log, campaign, until=now_ms(), lasts=int(hours * _HOUR)
        )
