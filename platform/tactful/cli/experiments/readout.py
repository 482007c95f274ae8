"""The command ``tactful experiment readout``: effects with intervals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.models.rollout_effects import read_key, release_cost
from tactful.schemas.experiments.readouts import Bounds, Effect, ReadOutMessage
from tactful.schemas.experiments.releases import ReleaseCost

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    "readout",
    epilog=cli.example(
        "tactful experiment readout new-model",
        "tactful experiment readout new-checkout --html report.html --notebook report.ipynb",
    ),
)
@cli.with_settings
@click.argument("key")
@click.option(
    "--source",
    type=click.Choice(["exact", "released"]),
    help="Exact outcomes from the log, or numbers with noise: counts that private looks released, "
    "or the days of an analysis with epsilon, which are charged and drawn; the default is what "
    "the rollout is judged by.",
)
@click.option(
    "--cost",
    is_flag=True,
    help="Only show what --source released costs; draws and charges nothing.",
)
@click.option("--stage", type=click.IntRange(min=0), help="Number of the stage, from 0.")
@click.option(
    "--days",
    type=click.FloatRange(0, 400, min_open=True),
    default=28.0,
    help="Of an experiment: days of recommendations.",
)
@click.option("--html", type=_FILE, help="Write a report to this HTML file, too.")
@click.option("--notebook", type=_FILE, help="Write a notebook to this file, too.")
@click.option("--mlflow", is_flag=True, help="Record it as a run in MLflow, too.")
@cli.json_option
def readout_command(
    settings: Settings,
    key: str,
    source: str | None,
    cost: bool,
    stage: int | None,
    days: float,
    as_json: bool,
    **reports: Any,
) -> None:
    """Show the effects of the rollout or experiment KEY on each metric, with intervals.

    `permanent-holdout` shows what personal recommendations are worth.
    """
    if cost:
        costs = release_cost(settings, key)
        if as_json:
            cli.print_json(costs)
            return
        for line in cost_lines(costs):
            click.echo(line)
        return
    found = read_key(settings, key, source=source, stage=stage, days=days)
    _write(found, **reports)
    if as_json:
        cli.print_json(found)
        return
    for line in readout_lines(found):
        click.echo(line)


def cost_lines(cost: ReleaseCost) -> Iterator[str]:
    """Describe what a release costs."""
    if cost.reason:
        yield cost.reason
    if cost.metrics:
        yield f"{cost.key}: epsilon {cost.epsilon:g} for {cost.unit}"
        yield cost.bound
    for name, epsilon in cost.metrics.items():
        yield (
            f"{name}: epsilon {epsilon:g}, {cost.days[name]} days drawn, {cost.waiting[name]} to "
            f"draw, which charge {cost.charged_days[name]} days of the ledger"
        )
    for name, reason in cost.refused.items():
        yield f"{name}: {reason}"


def _write(found: ReadOutMessage, html: Path | None, notebook: Path | None, mlflow: bool) -> None:
    from tactful.experiment_metrics.reports import html_report, notebook_report

    if html is not None:
        html.write_text(html_report(found), "utf-8")
    if notebook is not None:
        notebook.write_text(notebook_report(found), "utf-8")
    if mlflow:
        from tactful.models.record_readout import record_read_out

        run = record_read_out(found, html_report(found))
        click.echo(f"recorded in MLflow as run {run}", err=True)


def readout_lines(found: ReadOutMessage) -> Iterator[str]:
    """Describe a read-out, the sample ratio first."""
    ratio = found.sample_ratio
    people = ", ".join(f"{arm} {count:,}" for arm, count in ratio.people.items())
    stage = "" if found.stage is None else f", stage {found.stage}"
    yield f"{found.key}{stage}, {found.source} numbers"
    yield f"sample ratio: {ratio.verdict}" + (f" ({people})" if people else "")
    if ratio.verdict == "mismatch":
        yield "The arms do NOT have the people they should: find out why first."
    if found.reason:
        yield found.reason
    for note in found.notes:
        yield f"note: {note}"
    for effect in found.effects:
        yield from _effect_lines(effect)
    for segment in found.segments:
        kind = "exploratory" if segment.exploratory else "registered before the start"
        people = ", ".join(f"{arm} {count:,}" for arm, count in segment.people.items())
        yield f"segment {segment.segment} ({kind}): {people}"
        for effect in segment.effects:
            yield from _effect_lines(effect)
    last = {point.metric: point for point in found.guardrails}
    for metric, point in last.items():
        yield f"guardrail {metric}: {point.verdict}, margin {point.margin:.1%}"


def _effect_lines(effect: Effect) -> Iterator[str]:
    control, treatment = effect.control, effect.treatment
    capped = "" if effect.cap is None else f" (at most {effect.cap:g} of each)"
    about = [effect.role] if effect.role else []
    about += ["adjusted by earlier outcomes"] if effect.adjusted else []
    about += ["exploratory"] if effect.exploratory else []
    marks = f" [{', '.join(about)}]" if about else ""
    yield f"{effect.metric}: {effect.words}{capped}{marks}"
    yield (
        f"  {control.arm} {control.value:.4g} of {control.people:,}, "
        f"{treatment.arm} {treatment.value:.4g} of {treatment.people:,}"
    )
    relative = "" if effect.relative is None else f" ({effect.relative:+.1%})"
    yield f"  difference {effect.difference:+.4g}{relative}: {effect.verdict}"
    if effect.verdict == "too few data":
        yield (
            f"  an arm has {effect.outcomes} of the {effect.minimum_outcomes} outcomes that a "
            "verdict needs"
        )
    yield f"  interval at any look {_range(effect.anytime)}, at one look {_range(effect.fixed)}"
    if effect.chance_to_win is not None:
        yield (
            f"  chance to win {effect.chance_to_win:.1%}, expected loss of {treatment.arm} "
            f"{effect.loss_of_treatment:.3g}, of {control.arm} {effect.loss_of_control:.3g}"
        )


def _range(bounds: Bounds) -> str:
    low = "-∞" if bounds.low is None else f"{bounds.low:+.4g}"
    high = "∞" if bounds.high is None else f"{bounds.high:+.4g}"
    return f"[{low}, {high}]"
