"""Commands around experiments: ``tactful experiment check``, ``plan`` and ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.errors import ConfigError
from tactful.experiments.metrics import METRICS
from tactful.experiments.readout import read_out, to_response
from tactful.experiments.tally import read_arm_outcomes
from tactful.subjects.consented_log import measured_log
from tactful.util.clock import now_ms
from tactful.util.lazy_commands import LazyCommand, LazyGroup
from tactful_bandits.analysis.power import Design, days_needed
from tactful_bandits.assignment.definitions import load_experiments
from tactful_bandits.errors import DefinitionError, StatisticsError

_HOUR = 3_600_000

_HELP = {
    "apply": "Store the rollouts in FILE, and start those that ask for it.",
    "list": "List the rollouts with their states.",
    "show": "Show state, history and looks of the rollout KEY.",
    "shadow": "Start the shadow of the rollout KEY alone.",
    "start": "Start the first stage of the rollout KEY.",
    "advance": "Start the first stage of KEY after its shadow, or continue after a hold.",
    "hold": "Hold KEY in its stage, which `advance` begins again; harm still rolls back.",
    "rollback": "End KEY and serve everybody as before it.",
    "decide": "End KEY by hand before its last stage is over.",
    "archive": "Archive KEY, which has ended; its change is no longer served.",
    "record": "Record the end of the rollout KEY in MLflow; a shipped model becomes the champion.",
}
_ROLLOUTS = {
    name: LazyCommand(f"tactful.cli.experiments.rollout:{name}_command", text)
    for name, text in _HELP.items()
}
_ROLLOUTS["readout"] = LazyCommand(
    "tactful.cli.experiments.readout:readout_command",
    "Show the effects of the rollout or experiment KEY on each metric, with intervals.",
)


_share = click.FloatRange(0, 1, min_open=True, max_open=True)


@click.group(cls=LazyGroup, lazy=_ROLLOUTS)
def experiment() -> None:
    """Check, plan, roll out and evaluate experiments."""


@experiment.command("check", epilog=cli.example("tactful experiment check experiments.yaml"))
@click.argument("file", type=cli.existing_file)
@cli.json_option
def check(file: Path, as_json: bool) -> None:
    """Check the experiments in FILE; the first error is printed with its line."""
    with cli.reported_as(ConfigError, OSError, DefinitionError):
        found = load_experiments(file)
    if as_json:
        cli.print_json([{"key": e.key, "status": e.status, "shares": e.shares} for e in found])
        return
    if not found:
        click.echo(f"{file} has no experiments.", err=True)
    for each in found:
        arms = ", ".join(f"{name} {share:.2%}" for name, share in each.shares.items())
        click.echo(f"{each.key}  {each.status}  {each.coverage:.2%} of all: {arms}")


@experiment.command(
    "plan",
    epilog=cli.example(
        "tactful experiment plan rollouts.yaml",
        "tactful experiment plan --rate 0.02 --change 0.05 --people-per-day 5000",
    ),
)
@cli.with_settings
@click.argument("file", type=cli.existing_file, required=False)
@click.option(
    "--rate",
    type=_share,
    help="Share of people who take the action today; of rollouts, instead of the outcomes of the "
    "last 28 days.",
)
@click.option(
    "--change",
    type=float,
    help="Without FILE: smallest relative change to detect, such as 0.05 for five per cent.",
)
@click.option("--share", type=_share, default=0.5, help="Share of the people who get the change.")
@cli.people_per_day_option
@click.option("--power", default=0.8)
@click.option(
    "--looks",
    type=click.Choice(["one", "any"]),
    default="any",
    help="Evaluate once at the end, or at any time.",
)
@cli.json_option
def plan(
    settings: Settings,
    file: Path | None,
    people_per_day: float | None,
    rate: float | None,
    change: float | None,
    as_json: bool,
    **design: Any,
) -> None:
    """Compute the power of the rollouts in FILE, or the users that an experiment needs.

    With FILE, print for each rollout the probability to find a harmful change, and the days until
    the end of the stage before 100 %, by the recommendations of the last 28 days. Nothing is
    stored.

    Without FILE, compute how many users an experiment needs to detect a change of a share.
    """
    if file is not None:
        from tactful.cli.experiments.rollout import print_forecasts

        print_forecasts(settings, file, people_per_day, rate, as_json=as_json)
        return
    if rate is None or change is None:
        raise ConfigError("give a FILE of rollouts, or --rate and --change")
    _print_users(people_per_day, rate, change, as_json=as_json, **design)


def _print_users(
    people_per_day: float | None,
    rate: float,
    change: float,
    *,
    share: float,
    power: float,
    looks: str,
    as_json: bool,
) -> None:
    with cli.reported_as(ConfigError, StatisticsError):
        design = Design(rate * (1 - rate), treatment_share=share, looks=looks)
        people = design.units_for(rate * change, power=power)
        days = None if people_per_day is None else days_needed(people, [people_per_day])
    if as_json:
        cli.print_json({"people": people, "days": days})
        return
    words = f"{people:,} people in both arms together"
    click.echo(words if days is None else f"{words}: {days} days, in whole weeks")


@experiment.command(
    "report", epilog=cli.example("tactful experiment report --key ranking --days 14")
)
@cli.with_settings
@click.option("--key", default="ranking", help="Key of the experiment.")
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True),
    default=28.0,
    help="Days of recommendations to count; not more than since the arms were changed.",
)
@cli.outcome_option
@cli.outcome_hours_option
@cli.json_option
def report(
    settings: Settings,
    key: str,
    days: float,
    outcomes: tuple[str, ...],
    outcome_hours: float,
    as_json: bool,
) -> None:
    """Evaluate an experiment on recommendations from the log, at any time.

    Each interval is valid at any number of looks. "higher" and "lower" hold for all comparisons
    together. Users who do not consent to measurement are not counted.
    """
    with cli.reported_as(ConfigError, OSError, DefinitionError):
        found = {each.key: each for each in load_experiments(settings.experiments)}
    if key not in found:
        raise ConfigError(f"there is no experiment {key!r}; there are {', '.join(found)}")
    now = now_ms()
    with measured_log(settings, clock=now_ms) as log:
        seen = read_arm_outcomes(
            log,
            key,
            since=now - int(days * 24 * _HOUR),
            until=now,
            types=outcomes,
            lasts=int(outcome_hours * _HOUR),
        )
    read = read_out(seen, found[key])
    if as_json:
        cli.print_json(to_response(read))
        return
    if read.sample_ratio is not None and read.sample_ratio.mismatch:
        click.echo("The arms do NOT have the people they should: find out why first.")
    if not read.comparisons:
        click.echo("No two arms have two people whose lists are over: nothing to compare yet.")
    for (arm, metric), compared in read.comparisons.items():
        low, high = compared.anytime.low, compared.anytime.high
        capped = f" (at most {read.cap:g} of each)" if metric == "revenue" else ""
        click.echo(
            f"{arm} minus {read.control}, {METRICS[metric].words}{capped}: "
            f"{compared.estimate.value:+.4f} [{low:+.4f}, {high:+.4f}], {read.verdict(arm, metric)}"
        )
