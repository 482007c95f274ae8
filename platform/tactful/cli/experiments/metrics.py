"""Commands around metrics of experiments: ``tactful metrics check``, ``list``, ``register``."""

from __future__ import annotations

import contextlib
import datetime as dt
from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.experiment_metrics.definitions import load_metrics
from tactful.experiment_metrics.effects import words_of
from tactful.experiment_metrics.registrations import MetricRegistrations
from tactful.metadata.connections import open_installation
from tactful.models.audit_log import login_and_host
from tactful.schemas.experiments.metrics import MetricDefinition, MetricIndex
from tactful.util.clock import now_ms
from tactful_streaming.definitions.model import format_duration


@click.group()
def metrics() -> None:
    """Check and list the metrics of experiments, and register analyses."""


@metrics.command("check", epilog=cli.example("tactful metrics check metrics.yaml"))
@click.argument("file", type=cli.existing_file)
@cli.json_option
def check(file: Path, as_json: bool) -> None:
    """Check the metrics and analyses in FILE; the first error is printed with its line."""
    found = load_metrics(file).index()
    if as_json:
        cli.print_json(found)
        return
    _print(found)


@metrics.command("list", epilog=cli.example("tactful metrics list --data tactful-data"))
@cli.with_settings
@cli.json_option
def list_(settings: Settings, as_json: bool) -> None:
    """List the metrics of the installation, where they are used, and what is registered."""
    found = load_metrics(settings.experiment_metrics)
    with contextlib.closing(open_installation(settings)) as metadata:
        index = found.index(MetricRegistrations(metadata, clock=now_ms).latest())
    if as_json:
        cli.print_json(index)
        return
    _print(index)


@metrics.command("register", epilog=cli.example("tactful metrics register --data tactful-data"))
@cli.with_settings
@cli.json_option
def register(settings: Settings, as_json: bool) -> None:
    """Record the analyses of the installation, before their experiments start.

    A server does it when it starts. Metrics, segments and CUPED that are registered or changed
    after the first exposure are marked as exploratory in read-outs.
    """
    found = load_metrics(settings.experiment_metrics)
    with contextlib.closing(open_installation(settings, create=True)) as metadata:
        registrations = MetricRegistrations(metadata, clock=now_ms)
        changed = registrations.register(found, by=login_and_host())
    if as_json:
        cli.print_json({"registered": changed})
        return
    click.echo(f"registered: {', '.join(changed)}" if changed else "nothing has changed")


def _print(found: MetricIndex) -> None:
    if not found.metrics:
        click.echo("There are no metrics.", err=True)
    for info in found.metrics:
        used = ", ".join(f"{it.experiment} ({it.role})" for it in info.used) or "unused"
        click.echo(f"{info.definition.name}  {_described(info.definition)}  {used}")
    for each in found.experiments:
        if each.registered_at is None:
            since = "not registered"
        else:
            at = dt.datetime.fromtimestamp(each.registered_at / 1000, dt.UTC)
            since = f"registered {at:%Y-%m-%d %H:%M} UTC by {each.registered_by}"
        goals = ", ".join(each.plan.goals) or "none"
        click.echo(f"{each.plan.experiment}: goals {goals}; {since}")


def _described(metric: MetricDefinition) -> str:
    parts = [metric.kind, words_of(metric)]
    if metric.window_ms:
        after = f" after {format_duration(metric.delay_ms)}" if metric.delay_ms else ""
        parts.append(f"within {format_duration(metric.window_ms)}{after}")
    if metric.cap is not None:
        parts.append(f"at most {metric.cap:g}")
    return ", ".join([*parts, f"{metric.direction} is better"])
