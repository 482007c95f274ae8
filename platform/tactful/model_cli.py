"""Commands around models: ``tactful train``, ``tactful models`` and ``tactful demo``."""

from __future__ import annotations

import contextlib
import datetime as dt
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec
from tqdm import tqdm

from tactful.config import Settings, load_settings
from tactful.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from tactful.model_log import ModelLog
    from tactful.registry import Registry

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON lines.")
_name_option = click.option("--name", default="ranker", show_default=True, help="Model name.")
_config_option = click.option("--config", type=click.Path(path_type=Path), help="Settings file.")
_data_option = click.option("--data", type=click.Path(path_type=Path), help="Data directory.")
_by_option = click.option(
    "--by", help="Who does it, for the audit log; by default your login and host."
)


@click.command()
@_config_option
@_data_option
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
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--promote/--no-promote", default=False, help="Make it the champion at once.")
@_json_option
def train(
    config: Path | None,
    data: Path | None,
    name: str,
    label_days: float,
    lists: int,
    task: Literal["auto", "basket", "next"],
    seed: int,
    promote: bool,
    as_json: bool,
) -> None:
    """Train a ranking model from the log and register it in MLflow."""
    settings = _settings(config, data)
    from tactful.training import TrainingOptions

    options = TrainingOptions(name=name, label_days=label_days, lists=lists, task=task, seed=seed)
    result = _train(settings, options, promote=promote, say=_json_progress if as_json else _bars())
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    click.echo(
        f"{name} version {result['version']}"
        + (
            " is the champion"
            if promote
            else f"; `tactful models promote {result['version']}` makes it the champion"
        )
    )
    for measure, value in result["metrics"].items():
        click.echo(f"  {measure:<8} {value:.4f}")
    skew = result["skew"]
    if skew["lists"]:
        click.echo(f"  {'skew':<8} {skew['share']:.4f}")
        for feature, share in skew["by_feature"].items():
            click.echo(
                f"    {feature} differs in {share:.1%} of the rows that were served", err=True
            )


@click.group()
def models() -> None:
    """List, promote, roll back and fetch model versions."""


@models.command("list")
@_config_option
@_data_option
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
@_config_option
@_data_option
@_name_option
@click.option("--reason", default="", help="Why, for the audit log.")
@_by_option
@click.argument("version")
def models_promote(
    config: Path | None, data: Path | None, name: str, reason: str, by: str | None, version: str
) -> None:
    """Make VERSION the champion; a running server takes it over within seconds."""
    with _audited(_settings(config, data), name, by=by) as registry:
        registry.promote(version, reason=reason)
    click.echo(f"{name} {version} is the champion.", err=True)


@models.command("rollback")
@_config_option
@_data_option
@_name_option
@click.option("--reason", required=True, help="Why, for the audit log.")
@_by_option
def models_rollback(
    config: Path | None, data: Path | None, name: str, reason: str, by: str | None
) -> None:
    """Make the previous champion the champion again."""
    with _audited(_settings(config, data), name, by=by) as registry:
        version = registry.rollback(reason=reason)
    click.echo(f"{name} {version} is the champion again.", err=True)


@models.command("log")
@_config_option
@_data_option
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True)
@_json_option
def models_log(config: Path | None, data: Path | None, limit: int, as_json: bool) -> None:
    """Say who trained, promoted and rolled back which version, when and why; newest first."""
    with _model_log(_settings(config, data)) as log:
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
@_config_option
@_data_option
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


def _train(
    settings: Settings, options: Any, *, promote: bool, say: Callable[[str, int, int], None]
) -> dict[str, Any]:
    from tactful.linking import identity_of
    from tactful.skew import measure_skew
    from tactful.training import plot_training, train
    from tactful_streaming import DefinitionError, EmbeddedLog, LogError, load_definitions

    try:
        definitions = load_definitions(settings.features)
        log = EmbeddedLog(settings.storage.data / "log", read_only=True)
    except DefinitionError as error:
        raise ConfigError(str(error)) from error
    except LogError as error:
        raise ModelError(
            f"nothing to train from: {error}; send events to `tactful serve` first, or name its "
            "data directory with --data"
        ) from error
    identity = identity_of(settings.identity)
    with contextlib.ExitStack() as stack:
        stack.callback(log.close)
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tactful-train-")))
        trained = train(
            log,
            definitions,
            scratch / "model",
            options,
            kernels=settings.models / "kernels",
            identity=identity,
            progress=say,
        )
        skew = measure_skew(
            log,
            definitions,
            settings.models,
            identity=identity,
            progress=partial(say, "compare"),
        )
        say("register", 0, 1)
        registry = stack.enter_context(_audited(settings, options.name))
        registered = registry.register(
            scratch / "model",
            parameters={
                "label_days": options.label_days,
                "lists": options.lists,
                "task": options.task,
                "depth": options.depth,
                "learning_rate": options.learning_rate,
                "seed": options.seed,
            },
            example=trained.example,
            figures=plot_training(trained, scratch / "figures"),
            metrics={"skew": skew.share, "skew_lists": skew.lists} if skew.lists else {},
        )
        if promote:
            registry.promote(registered.version, reason="tactful train --promote")
        say("register", 1, 1)
    manifest = trained.manifest
    return {
        "name": registered.name,
        "version": registered.version,
        "alias": "champion" if promote else "",
        "run_id": registered.run_id,
        "rows": manifest.rows,
        "questions": manifest.questions,
        "metrics": manifest.metrics,
        "features": [{"name": key, "gain": gain} for key, gain in manifest.gains.items()],
        "skew": {
            "lists": skew.lists,
            "skipped": skew.skipped,
            "share": skew.share if skew.lists else None,
            "by_feature": skew.by_feature,
        },
    }


def _settings(config: Path | None, data: Path | None) -> Settings:
    return load_settings(config, overrides={"storage.data": data})


@contextlib.contextmanager
def _model_log(settings: Settings) -> Iterator[ModelLog]:
    from tactful.connections import open_installation
    from tactful.model_log import ModelLog

    settings.storage.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.closing(open_installation(settings)) as metadata:
        yield ModelLog(metadata, clock=lambda: time.time_ns() // 1_000_000)


@contextlib.contextmanager
def _audited(settings: Settings, name: str, *, by: str | None = None) -> Iterator[Registry]:
    with _model_log(settings) as audit:
        yield _registry(settings, name, audit=audit, by=by)


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
        held[stage].update(done - held[stage].n)

    return say
