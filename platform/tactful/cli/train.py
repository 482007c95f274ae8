"""``tactful train``: train a ranking model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import click

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.errors import TrainingBusy
from tactful.models.training_run import reason_to_train, run_training
from tactful.schemas.interactions import rank_of
from tactful.training.options import TrainingOptions, Vectors
from tactful.util.clock import now_ms


@dataclass(frozen=True)
class _Registration:
    """Arguments of `run_training` for the new version."""

    promote: bool
    if_better: bool
    fresh: bool
    reason: str
    by: str | None


def _checked_label(context: click.Context, parameter: click.Parameter, label: str | None) -> str:
    if label:
        try:
            rank_of(label)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
    return label or ""


@click.command(
    epilog=cli.example("tactful train --promote", "tactful train --if-due --promote --if-better")
)
@cli.with_settings
@click.option("--name", default="ranker", help="Model name.")
@click.option(
    "--label-days", type=click.FloatRange(0.1), default=35.0, help="Recent days to learn from."
)
@click.option(
    "--lists", type=click.IntRange(20), default=8_000, help="Recommendations to replay, at most."
)
@click.option(
    "--task",
    type=click.Choice(["auto", "basket", "next"]),
    default="auto",
    help="Target of the training: whole baskets or the next item.",
)
@click.option(
    "--shown",
    type=click.IntRange(min=0),
    default=20_000,
    help="Maximum number of shown recommendations to learn from; 0 for none.",
)
@click.option(
    "--label",
    callback=_checked_label,
    help="Event type by which an item counts as taken, as by stronger ones; default: the setting "
    "of [training], or the strongest type with enough data.",
)
@cli.outcome_hours_option
@click.option(
    "--debias/--no-debias",
    default=True,
    help="Weight shown items by the inverse probability that their position is seen.",
)
@click.option(
    "--vectors",
    "vectors_kind",
    type=click.Choice(["co_occurrence", "two_tower"]),
    help="Method for item vectors; default: the setting of [training]. two_tower needs PyTorch.",
)
@click.option("--seed", default=0)
@click.option(
    "--if-due", is_flag=True, help="Train only if [training] finds it due; for scheduled runs."
)
@click.option(
    "--if-better",
    is_flag=True,
    help="With --promote: only if it is no worse than the champion on the latest recommendations.",
)
@click.option("--fresh", is_flag=True, help="Start anew instead of resuming a killed training.")
@click.option(
    "--recall-only",
    is_flag=True,
    help="Only learn the recall that serves while there is no champion; `tactful serve` does so.",
)
@cli.reason_option
@cli.by_option
@click.option(
    "--promote/--no-promote", default=False, show_default=False, help="Make it the champion."
)
@cli.json_option
@cli.grouped("options", TrainingOptions)
@cli.grouped("registration", _Registration)
def train(
    settings: Settings,
    options: TrainingOptions,
    vectors_kind: Vectors | None,
    registration: _Registration,
    if_due: bool,
    recall_only: bool,
    as_json: bool,
) -> None:
    """Train a ranking model from the log and register it in MLflow.

    After a kill, the same command with the same options resumes within a day.
    """
    if recall_only:
        _learn_recall(settings, as_json)
        return
    if if_due:
        due = reason_to_train(settings, now=now_ms())
        if due is None:
            cli.print_json({"due": None}) if as_json else click.echo("It is not time.")
            return
        registration = replace(registration, reason=registration.reason or due)
    try:
        result = run_training(
            settings,
            replace(
                options,
                vectors=vectors_kind or settings.training.vectors,
                label=options.label or settings.training.label,
                minimum_people=settings.recommend.anonymous_minimum,
            ),
            **asdict(registration),
            say=_json_progress if as_json else _bars(),
        )
    except TrainingBusy:
        if not if_due:
            raise
        cli.print_json({"due": None}) if as_json else click.echo("It is being trained.")
        return
    if as_json:
        cli.print_json(result)
    else:
        _print_result(options.name, result)


def _learn_recall(settings: Settings, as_json: bool) -> None:
    from tactful.models.untrained_recall import learn_recall

    index = learn_recall(settings)
    items = None if index is None else len(index.item_ids)
    if as_json:
        cli.print_json({"items": items})
    else:
        nothing = "Nothing was learned: a champion serves, or the log holds too little."
        click.echo(nothing if items is None else f"Recall of {items:,} items is learned.")


def _print_result(name: str, result: dict[str, Any]) -> None:
    version = result["version"]
    note = f"; `tactful models promote {version}` makes it the champion"
    click.echo(f"{name} version {version}{' is the champion' if result['alias'] else note}")
    for reason in result["doubts"]:
        click.echo(f"Doubtful, so --promote does not make it the champion: {reason}.", err=True)
    for measure, value in result["metrics"].items():
        click.echo(f"  {measure:<20} {value:.4f}")
    calibration = result["calibration"]
    if calibration is not None:
        click.echo(f"  {'calibration error':<20} {calibration.error:.4f}")
    skew = result["skew"]
    if skew["lists"]:
        click.echo(f"  {'skew':<20} {skew['share']:.4f}")
        for feature, share in skew["by_feature"].items():
            note = f"    {feature} differs in {share:.1%} of the rows that were served"
            click.echo(note, err=True)


def _json_progress(stage: str, done: int, total: int) -> None:
    cli.print_json({"stage": stage, "done": done, "total": total})


def _bars() -> Callable[[str, int, int], None]:
    """Return a callback that shows one progress bar per stage."""
    held: dict[str, Any] = {}

    def say(stage: str, done: int, total: int) -> None:
        if stage not in held:
            for bar in held.values():
                bar.close()
            held[stage] = cli.progress_bar(desc=stage, total=total, unit_scale=True)
        cli.advance(held[stage])(done, total)  # the total is known better the further it is

    return say
