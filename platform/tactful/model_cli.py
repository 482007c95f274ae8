"""Commands around models: ``tactful train``, ``tactful models`` and ``tactful demo``."""

from __future__ import annotations

import datetime as dt
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec
from tqdm import tqdm

from tactful.clock import now_ms
from tactful.command_options import config_option, data_option, outcome_hours_option
from tactful.config import Settings, load_settings
from tactful.errors import TrainingBusy

if TYPE_CHECKING:
    from tactful.registry import Registry
    from tactful.training_options import Vectors

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
_name_option = click.option("--name", default="ranker", show_default=True, help="Model name.")
_by_option = click.option(
    "--by", help="Who does it, for the audit log; by default your login and host."
)


@click.command()
@config_option
@data_option
@_name_option
@click.option(
    "--label-days",
    type=click.FloatRange(min=0.1),
    default=35.0,
    show_default=True,
    help="The last so many days give the lists to learn from.",
)
@click.option(
    "--lists",
    type=click.IntRange(min=20),
    default=8_000,
    show_default=True,
    help="How many lists to learn from at most.",
)
@click.option(
    "--task",
    type=click.Choice(["auto", "basket", "next"]),
    default="auto",
    show_default=True,
    help="What a list is asked for.",
)
@click.option(
    "--shown",
    type=click.IntRange(min=0),
    default=20_000,
    show_default=True,
    help="How many lists that were really shown to learn from at most; 0 for none.",
)
@click.option(
    "--outcome",
    "outcomes",
    multiple=True,
    default=("add_to_cart", "purchase"),
    show_default=True,
    help="Type of event that says an item of a shown list was taken; may be given repeatedly.",
)
@outcome_hours_option
@click.option(
    "--debias/--no-debias",
    default=True,
    show_default=True,
    help="Let items further down count more, by how seldom their place is looked at.",
)
@click.option(
    "--vectors",
    type=click.Choice(["co_occurrence", "two_tower"]),
    help="How item vectors are learned; by default as [training] says. two_tower needs PyTorch.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--if-due",
    is_flag=True,
    help="Train only if the settings of [training] say that it is time; for scheduled runs.",
)
@click.option(
    "--if-better",
    is_flag=True,
    help="With --promote: only if it is no worse than the champion on the latest lists.",
)
@click.option("--fresh", is_flag=True, help="Forget what a killed training has done.")
@click.option("--reason", default="", help="Why, for the audit log.")
@_by_option
@click.option("--promote/--no-promote", default=False, help="Make it the champion at once.")
@_json_option
def train(
    config: Path | None,
    data: Path | None,
    name: str,
    label_days: float,
    lists: int,
    task: Literal["auto", "basket", "next"],
    shown: int,
    outcomes: tuple[str, ...],
    outcome_hours: float,
    debias: bool,
    vectors: Vectors | None,
    seed: int,
    if_due: bool,
    if_better: bool,
    fresh: bool,
    reason: str,
    by: str | None,
    promote: bool,
    as_json: bool,
) -> None:
    """Train a ranking model from the log and register it in MLflow.

    Killed and run again with the same options within a day, it goes on where it was.
    """
    settings = _settings(config, data)
    from tactful.training_options import TrainingOptions
    from tactful.training_run import reason_to_train, run_training

    if if_due:
        due = reason_to_train(settings, now=now_ms())
        if due is None:
            click.echo(msgspec.json.encode({"due": None}) if as_json else "It is not time.")
            return
        reason = reason or due
    options = TrainingOptions(
        name=name,
        label_days=label_days,
        lists=lists,
        task=task,
        shown=shown,
        outcomes=outcomes,
        outcome_hours=outcome_hours,
        debias=debias,
        vectors=vectors or settings.training.vectors,
        seed=seed,
    )
    try:
        result = run_training(
            settings,
            options,
            promote=promote,
            if_better=if_better,
            fresh=fresh,
            reason=reason,
            by=by,
            say=_json_progress if as_json else _bars(),
        )
    except TrainingBusy:
        if not if_due:
            raise
        click.echo(msgspec.json.encode({"due": None}) if as_json else "It is being trained.")
        return
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    click.echo(
        f"{name} version {result['version']}"
        + (
            " is the champion"
            if result["alias"]
            else f"; `tactful models promote {result['version']}` makes it the champion"
        )
    )
    for measure, value in result["metrics"].items():
        click.echo(f"  {measure:<20} {value:.4f}")
    calibration = result["calibration"]
    if calibration is not None:
        click.echo(f"  {'calibration error':<20} {calibration.error:.4f}")
    skew = result["skew"]
    if skew["lists"]:
        click.echo(f"  {'skew':<20} {skew['share']:.4f}")
        for feature, share in skew["by_feature"].items():
            click.echo(
                f"    {feature} differs in {share:.1%} of the rows that were served", err=True
            )


@click.group()
def models() -> None:
    """List, promote, roll back and fetch model versions."""


@models.command("list")
@config_option
@data_option
@_name_option
@_json_option
def models_list(config: Path | None, data: Path | None, name: str, as_json: bool) -> None:
    """List the versions, newest first."""
    found = _registry(_settings(config, data), name).versions()
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for version in found:
        click.echo(f"{version['version']:>4}  {version['run_id']}  {version['aliases']}")


@models.command("promote")
@config_option
@data_option
@_name_option
@click.option("--reason", default="", help="Why, for the audit log.")
@_by_option
@click.argument("version")
def models_promote(
    config: Path | None, data: Path | None, name: str, reason: str, by: str | None, version: str
) -> None:
    """Make VERSION the champion; a running server takes it over within seconds."""
    from tactful.training_run import audited_registry

    with audited_registry(_settings(config, data), name, by=by) as registry:
        registry.promote(version, reason=reason)
    click.echo(f"{name} {version} is the champion.", err=True)


@models.command("rollback")
@config_option
@data_option
@_name_option
@click.option("--reason", required=True, help="Why, for the audit log.")
@_by_option
def models_rollback(
    config: Path | None, data: Path | None, name: str, reason: str, by: str | None
) -> None:
    """Make the previous champion the champion again."""
    from tactful.training_run import audited_registry

    with audited_registry(_settings(config, data), name, by=by) as registry:
        version = registry.rollback(reason=reason)
    click.echo(f"{name} {version} is the champion again.", err=True)


@models.command("log")
@config_option
@data_option
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@_json_option
def models_log(config: Path | None, data: Path | None, limit: int, as_json: bool) -> None:
    """Say who trained, promoted and rolled back which version, when and why; newest first."""
    from tactful.training_run import open_model_log

    with open_model_log(_settings(config, data)) as log:
        changes = log.changes(limit=limit)
    if as_json:
        click.echo(msgspec.json.encode(changes))
        return
    for change in changes:
        at = dt.datetime.fromtimestamp(change.begun_at / 1000, dt.UTC)
        state = "" if change.state == "done" else f" ({change.state})"
        click.echo(
            f"{at:%Y-%m-%d %H:%M:%S}Z  {change.action:<8}  {change.name} {change.version or '-'}"
            f"{state}  {change.changed_by}  {change.reason}".rstrip()
        )


@models.command("pull")
@config_option
@data_option
@_name_option
@click.argument("version")
def models_pull(config: Path | None, data: Path | None, name: str, version: str) -> None:
    """Fetch the files of VERSION from MLflow."""
    directory = _registry(_settings(config, data), name).pull(version)
    click.echo(str(directory))


@click.command()
@click.option(
    "--data",
    type=click.Choice(["completejourney", "online-retail"]),
    default="completejourney",
    show_default=True,
)
@click.option(
    "--path",
    type=click.Path(path_type=Path),
    help="The UCI Online Retail file: xlsx, csv or parquet.",
)
@click.option("--quick", is_flag=True, help="A slice, in under a minute.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    default=Path("tactful-data/demo"),
    show_default=True,
    help="Data directory of the run; made anew.",
)
@click.option(
    "--reports", type=click.Path(path_type=Path), default=Path("reports"), show_default=True
)
@click.option(
    "--port", type=int, default=8420, show_default=True, help="Of the server; 0 takes a free one."
)
@_json_option
def demo(
    data: str,
    path: Path | None,
    quick: bool,
    directory: Path,
    reports: Path,
    port: int,
    as_json: bool,
) -> None:
    """Replay real shopping through the whole platform and measure what it recommends."""
    from tactful.demo import DemoOptions, run, summary

    # A stop from outside ends the demo's server as well.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    options = DemoOptions(
        data=data, path=path, quick=quick, directory=directory, reports=reports, port=port
    )
    report = run(options)
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        click.echo(summary(report, options))


def _settings(config: Path | None, data: Path | None) -> Settings:
    return load_settings(config, overrides={"storage.data": data})


def _registry(settings: Settings, name: str, **how: Any) -> Registry:
    from tactful.registry import Registry

    return Registry(name, settings.models, **how)


def _json_progress(stage: str, done: int, total: int) -> None:
    click.echo(msgspec.json.encode({"stage": stage, "done": done, "total": total}))


def _bars() -> Callable[[str, int, int], None]:
    """One progress bar after the other, a stage each."""
    held: dict[str, Any] = {}

    def say(stage: str, done: int, total: int) -> None:
        if stage not in held:
            for bar in held.values():
                bar.close()
            held[stage] = tqdm(desc=stage, total=total, file=sys.stderr, unit_scale=True)
        held[stage].total = total  # known better the further it is
        held[stage].update(done - held[stage].n)

    return say
