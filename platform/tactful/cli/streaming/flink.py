"""Commands that bring definitions to Flink: ``tactful flink compile``, ``submit``, ``upgrade``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from tactful.cli import options as cli
from tactful.cli.streaming.flink_compare import compare
from tactful.cli.streaming.flink_jobs import (
    began,
    cluster_option,
    flink_errors,
    savepoint_dir_option,
    status,
    stop,
)
from tactful.errors import ConfigError, TactfulError
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import DefinitionError
from tactful_streaming.flink.compiler import compile_flink
from tactful_streaming.flink.notes import Note, compile_notes
from tactful_streaming.flink.options import FlinkOptions, FlinkScript
from tactful_streaming.flink.rest_client import FlinkCluster, SqlGateway
from tactful_streaming.flink.runner_jar import find_runner
from tactful_streaming.flink.submission import Program, Started, submit_job, upgrade_job

_DURATIONS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class _Duration(click.ParamType[int]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        number = text.rstrip("mshd")
        unit = text[len(number) :]
        if not number.isascii() or not number.isdigit() or unit not in _DURATIONS:
            self.fail(f"{text!r} is no duration: a whole number and ms, s, m, h or d", param, ctx)
        return int(number) * _DURATIONS[unit]


class _Property(click.ParamType[tuple[str, str]]):
    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        key, sign, text = str(value).partition("=")
        if not sign or not key:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key, text


_job_options = cli.with_options(  # what is compiled
    click.argument("file", type=cli.existing_file),
    click.option(
        "--kafka",
        "servers",
        required=True,
        envvar="TACTFUL_KAFKA_SERVERS",
        help="Bootstrap servers of Kafka, as Flink reaches them.",
    ),
    click.option("--topic", default="tactful-log", help="The log's topic."),
    click.option(
        "--output",
        type=click.Choice(["results", "entities"]),
        default="results",
        help="Rows of windows and matches, or packed values, from which servers recommend.",
    ),
    click.option("--entities-topic", default="tactful-entities", help="Topic for packed values."),
    click.option(
        "--erased-topic", default="tactful-erased", help="Topic of erased users and devices."
    ),
    click.option("--features-topic", default="features", help="Topic for values of features."),
    click.option(
        "--matches-topic", default="matches", help="Topic for matches of sequences and joins."
    ),
    click.option(
        "--group",
        "group_id",
        default="tactful-flink",
        help="Consumer group, and prefix of transactions.",
    ),
    click.option(
        "--delay",
        "watermark_delay_ms",
        type=_Duration(),
        default="5s",
        help="Delay of the watermark, as engine.watermark_delay_ms.",
    ),
    click.option(
        "--lateness",
        "allowed_lateness_ms",
        type=_Duration(),
        default="5m",
        help="Time for late events, as engine.allowed_lateness_ms. Windows of --output results are "
        "written this much later.",
    ),
    click.option(
        "--idle",
        "idle_timeout_ms",
        type=_Duration(),
        default="1m",
        help="Time without events after which a partition no longer holds back the watermark.",
    ),
    click.option(
        "--dedupe-days",
        type=click.IntRange(0),
        default=7,
        help="Days for which duplicate event ids are detected; 0: none.",
    ),
    click.option(
        "--items/--no-items", "catalogue", default=True, help="Whether the topic also holds items."
    ),
    click.option(
        "--decay",
        type=click.Choice(["exact", "panes"]),
        default="exact",
        help="Computation of decayed windows.",
    ),
    click.option(
        "--parallelism",
        type=click.IntRange(0),
        default=0,
        show_default=False,
        help="Subtasks of each operator; 0: the default of the cluster.",
    ),
    click.option(
        "--checkpoint",
        "checkpoint_ms",
        type=_Duration(),
        default="10s",
        help="Time between checkpoints.",
    ),
    click.option("--exactly-once", is_flag=True, help="Write results in transactions."),
    click.option(
        "--kafka-property",
        "kafka",
        type=_Property(),
        multiple=True,
        callback=lambda context, option, pairs: dict(pairs),
        help="Additional property of the Kafka client; may be repeated.",
    ),
    click.option("--name", "job", default="tactful", help="Name of the job."),
)


_flink_home_option = click.option(
    "--flink-home",
    envvar="TACTFUL_FLINK_HOME",
    default=".flink",
    type=cli.any_path,
    help="Directory of Flink, as fetched by scripts/flink.",
)


@click.group()
def flink() -> None:
    """Run feature definitions on a Flink cluster."""


flink.add_command(status)
flink.add_command(stop)
flink.add_command(compare)


@flink.command(
    "compile", epilog=cli.example("tactful flink compile features.yaml --kafka broker:9092")
)
@_job_options
@click.option("--out", type=cli.any_file, help="File to write.")
@cli.grouped("options", FlinkOptions)
def compile_(file: Path, options: FlinkOptions, out: Path | None) -> None:
    """Print FILE, a features.yaml, as Flink SQL."""
    script, notes = _compile(file, options)
    _say_notes(notes, _say)
    text = script.text
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TactfulError(f"{out}: {error.strerror or error}") from error
    click.echo(f"{out} is written.", err=True)


@flink.command(
    epilog=cli.example(
        "tactful flink submit features.yaml --kafka broker:9092 --cluster http://jobmanager:8081"
    )
)
@_job_options
@click.option(
    "--cluster", type=cli.address, help="REST address of a cluster, such as http://127.0.0.1:8081."
)
@click.option(
    "--gateway", type=cli.address, help="Address of a SQL Gateway, such as http://127.0.0.1:8083."
)
@click.option(
    "--jar", help="Jar of tactful: a local file for a cluster, a path on the gateway for a gateway."
)
@_flink_home_option
@click.option(
    "--resume/--no-resume",
    default=True,
    help="Whether to begin with the newest state that a job of this name left (cluster only).",
)
@click.option(
    "--savepoint", help="Savepoint or checkpoint to restore the state from (cluster only)."
)
@click.option("--wait", is_flag=True, help="Wait until the job ends (cluster only).")
@cli.json_option
@cli.grouped("options", FlinkOptions)
def submit(
    file: Path,
    options: FlinkOptions,
    cluster: str | None,
    gateway: str | None,
    jar: str | None,
    flink_home: Path,
    resume: bool,
    savepoint: str | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Compile FILE, a features.yaml, and start it as a job.

    On a cluster it begins with the newest state that a job of its name has left, and is refused
    while one runs.
    """
    if (cluster is None) == (gateway is None):
        raise click.UsageError("either --cluster or --gateway is needed")
    if gateway is not None and (wait or savepoint is not None):
        raise click.UsageError("--wait and --savepoint need --cluster: a gateway knows no jobs")
    script, notes = _compile(file, options, runner=gateway is None)
    said = _say_nothing if as_json else _say
    _say_notes(notes, said)
    state: str | None = None
    started: Started | None = None
    with flink_errors():
        if cluster is not None:
            path = Path(jar) if jar is not None else find_runner(flink_home)
            with FlinkCluster(cluster) as flink:
                said(f"Flink {flink.version()} answers; it gets {path.name}")
                program = Program(options.job, script, options.parallelism)
                started = submit_job(
                    flink, flink.upload(path), program, resume=resume, savepoint=savepoint
                )
                job = started.job
                said(f"it begins {began(started)}")
                state = flink.wait(job, on_state=said) if wait else flink.state(job)
        else:
            assert gateway is not None
            with (
                SqlGateway(gateway) as flink,
                tqdm(total=len(script.statements), desc="statements", disable=as_json) as bar,
            ):
                job = flink.run(script, jar=jar, on_progress=cli.advance(bar))
    if as_json:
        restored = started.restored if started is not None else None
        cli.print_json({"job": job, "state": state, "restored": restored, "notes": _data(notes)})
    else:
        click.echo(job)


@flink.command(
    epilog=cli.example(
        "tactful flink upgrade features.yaml --kafka broker:9092 --cluster http://jobmanager:8081"
    )
)
@_job_options
@cluster_option
@click.option("--jar", help="Jar of tactful, a local file.")
@_flink_home_option
@savepoint_dir_option
@click.option(
    "--allow-dropped-state", is_flag=True, help="Drop state that no operator takes any more."
)
@click.option(
    "--from-start", is_flag=True, help="Begin empty, at the beginning of the log, with any change."
)
@cli.json_option
@cli.grouped("options", FlinkOptions)
def upgrade(
    file: Path,
    options: FlinkOptions,
    cluster: str,
    jar: str | None,
    flink_home: Path,
    savepoint_dir: str | None,
    allow_dropped_state: bool,
    from_start: bool,
    as_json: bool,
) -> None:
    """Replace the job of this name by FILE, a changed features.yaml, and keep its state.

    It is stopped with a savepoint, which the new job begins with. State that another definition
    would take, or nobody, is refused first, and the job runs on.
    """
    script, notes = _compile(file, options)
    said = _say_nothing if as_json else _say
    _say_notes(notes, said)
    with flink_errors():
        path = Path(jar) if jar is not None else find_runner(flink_home)
        with FlinkCluster(cluster) as flink:
            started = upgrade_job(
                flink,
                flink.upload(path),
                Program(options.job, script, options.parallelism),
                allow_dropped=allow_dropped_state,
                from_start=from_start,
                folder=savepoint_dir,
                progress=said,
            )
            said(f"job {started.job} begins {began(started)}")
            state = flink.state(started.job)
    if as_json:
        restored = started.restored
        cli.print_json(
            {"job": started.job, "state": state, "restored": restored, "notes": _data(notes)}
        )
    else:
        click.echo(started.job)


def _say_nothing(text: str) -> None:
    pass


def _say(text: str) -> None:
    click.echo(text, err=True)


def _say_notes(notes: Iterable[Note], said: Callable[[str], None]) -> None:
    for note in notes:
        said(f"note: {note.line}")


def _data(notes: Iterable[Note]) -> list[dict[str, Any]]:
    return [{"definitions": list(note.definitions), "note": note.text} for note in notes]


def _compile(
    file: Path, options: FlinkOptions, *, runner: bool = True
) -> tuple[FlinkScript, tuple[Note, ...]]:
    """Compile a file; return the script, and what the job will do differently from the engine."""
    with cli.reported_as(ConfigError, DefinitionError):
        definitions = load_definitions(file)
        script = compile_flink(definitions, options, file=str(file))
        return script, compile_notes(definitions, options, runner=runner)
