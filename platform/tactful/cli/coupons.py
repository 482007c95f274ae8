"""Commands around coupons: ``tactful coupons check``, ``report`` and ``fit``."""

from __future__ import annotations

from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.config.load import load_settings
from tactful.config.settings import Settings
from tactful.coupons.definitions import CouponDefinition, load_coupons
from tactful.coupons.report import CouponOutcomes, fit_gain, lift, read_coupon_outcomes
from tactful.errors import ConfigError
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
    """Check the campaigns in FILE against the actions and features of the definitions."""
    with cli.reported_as(ConfigError, DefinitionError):
        definitions = load_definitions(load_settings(config).features)
    campaigns = load_coupons(file, definitions=definitions)
    if as_json:
        cli.print_json(campaigns)
        return
    if not campaigns:
        click.echo(f"{file} has no campaigns.", err=True)
    for each in campaigns:
        click.echo(
            f"{each.name}: on {each.action}, {each.holdout:.0%} held out, at most "
            f"{each.budget.amount:g} in all"
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


@coupons.command("fit", epilog=cli.example("tactful coupons fit abandoned-cart"))
@cli.with_settings
@click.argument("name")
@_margin_option
@_hours_option
@cli.json_option
def fit(settings: Settings, name: str, margin: float, hours: float, as_json: bool) -> None:
    """Learn the gain of a coupon of NAME by user; prints weights for `gain`."""
    campaign, seen = _read(settings, name, hours)
    weights = fit_gain(seen, campaign.features, margin=margin)
    if not weights:
        raise ConfigError(f"{name}: nobody was offered a coupon by chance and nobody held out yet")
    if as_json:
        cli.print_json({"gain": weights})
        return
    click.echo("gain: {" + ", ".join(f"{key}: {value:.6g}" for key, value in weights.items()) + "}")


def _read(settings: Settings, name: str, hours: float) -> tuple[CouponDefinition, CouponOutcomes]:
    if settings.coupons.definitions == Path():
        raise ConfigError("coupons.definitions is empty: there are no campaigns here")
    campaigns = {campaign.name: campaign for campaign in load_coupons(settings.coupons.definitions)}
    if name not in campaigns:
        raise ConfigError(f"there is no campaign {name!r}; there are {', '.join(campaigns)}")
    campaign = campaigns[name]
    with measured_log(settings, clock=now_ms) as log:
        return campaign, read_coupon_outcomes(
            log, campaign, until=now_ms(), lasts=int(hours * _HOUR)
        )
