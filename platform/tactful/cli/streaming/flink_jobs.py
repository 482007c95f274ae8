"""Commands about the job that runs: ``tactful flink status`` and ``tactful flink stop``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from tactful.cli import options as cli
from tactful.cli.exit_codes import ExitCode
from tactful.errors import ConnectionFailed, RequestRefused, TactfulError
from tactful_streaming.errors import FlinkError, FlinkRefusedError, FlinkUnreachableError
from tactful_streaming.flink.job_health import JobHealth, job_health
from tactful_streaming.flink.rest_client import FlinkCluster
from tactful_streaming.flink.submission import Started, active_jobs, stop_job

cluster_option = click.option(
    "--cluster",
    type=cli.address,
    required=True,
    help="REST address of a cluster, such as http://127.0.0.1:8081.",
)
savepoint_dir_option = click.option(
    "--savepoint-dir", help="Folder of the savepoint; default: the cluster's."
)
_name_option = click.option("--name", default="tactful", help="Name of the job.")


@contextmanager
def flink_errors() -> Iterator[None]:
    """Convert errors of Flink and of files into those that end a command with its exit code."""
    try:
        yield
    except FlinkUnreachableError as error:
        raise ConnectionFailed(str(error)) from error
    except FlinkRefusedError as error:
        raise RequestRefused(str(error)) from error
    except FlinkError as error:
        raise TactfulError(str(error)) from error
    except OSError as error:
        raise TactfulError(f"{error.filename}: {error.strerror}") from error


def began(started: Started) -> str:
    """Return a phrase for the state that a job began with."""
    if started.restored is None:
        return "without state, at the beginning of the log"
    return f"with the state of {started.restored}"


@click.command(epilog=cli.example("tactful flink status --cluster http://jobmanager:8081"))
@cluster_option
@_name_option
@cli.json_option
def status(cluster: str, name: str, as_json: bool) -> None:
    """Show the health of the job; fail if it does not compute features."""
    with flink_errors(), FlinkCluster(cluster) as flink:
        health = job_health(flink, name)
    if as_json:
        cli.print_json(
            {
                "job": health.job or None,
                "state": health.state,
                "problem": health.problem or None,
                "running_s": health.running_s,
                "restarts": health.restarts,
                "failure": health.failure or None,
                "checkpoint": health.checkpoint or None,
                "checkpoint_age_s": health.checkpoint_age_s,
                "checkpoints_failed": health.checkpoints_failed,
                "lag": health.lag,
            }
        )
    else:
        for line in _lines(health):
            click.echo(line)
    if health.problem:
        raise SystemExit(ExitCode.PROBLEM_FOUND)


def _lines(health: JobHealth) -> Iterator[str]:
    if health.job:
        yield f"job               {health.job}"
        yield f"state             {health.state}, for {health.running_s:.0f} s"
        yield f"restarts          {health.restarts}"
        yield f"last failure      {health.failure or 'none'}"
        age = health.checkpoint_age_s
        done = "none" if age is None else f"{age:.0f} s ago: {health.checkpoint}"
        yield f"last checkpoint   {done}"
        yield f"failed since then {health.checkpoints_failed}"
        yield f"records not read  {'unknown' if health.lag is None else health.lag}"
    yield health.problem or "it is well"


@click.command(epilog=cli.example("tactful flink stop --cluster http://jobmanager:8081"))
@cluster_option
@_name_option
@click.option("--job", "job_id", help="Id of the job, if several have the name.")
@savepoint_dir_option
@click.option(
    "--now", is_flag=True, help="Without a savepoint: its last checkpoint is its state then."
)
@cli.json_option
def stop(
    cluster: str, name: str, job_id: str | None, savepoint_dir: str | None, now: bool, as_json: bool
) -> None:
    """End the job with a savepoint, which the next `tactful flink submit` begins with."""
    savepoint: str | None = None
    with flink_errors(), FlinkCluster(cluster) as flink:
        running = [it for it in active_jobs(flink, name) if job_id in (None, it.id)]
        if len(running) != 1:
            raise RequestRefused(
                f"{len(running)} jobs {job_id or name} run on {cluster}"
                + (": choose one with --job" if running else "")
            )
        if now:
            flink.cancel(running[0].id)
            flink.wait(running[0].id, timeout=120)
        else:
            savepoint = stop_job(flink, running[0].id, savepoint_dir)
    if as_json:
        cli.print_json({"job": running[0].id, "savepoint": savepoint})
    else:
        click.echo(savepoint or f"job {running[0].id} is cancelled; its last checkpoint stays")
