"""Commands around private statistics: ``tactful privacy …``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import IO

import click
import msgspec
from tqdm import tqdm

from tactful.errors import ConfigError

_AUDIT_IN_VAIN = 5


@click.group()
def privacy() -> None:
    """Attack the published numbers, and see what they cost."""


@privacy.command("audit")
@click.option("--quick", is_flag=True, help="Fewer trials: half a minute instead of some minutes.")
@click.option("--cap", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--epsilon", default="1", show_default=True, help="Claimed; exact, as text.")
@click.option("--canaries", type=click.IntRange(min=1_000), help="Trials of the attack.")
@click.option("--json", "json_file", type=click.File("wb", lazy=True), help="Report; - prints it.")
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Pictures.")
def audit_command(
    quick: bool,
    cap: int,
    epsilon: str,
    canaries: int | None,
    json_file: IO[bytes] | None,
    plots: Path | None,
) -> None:
    """Attack published counts as they are installed, and check that the attack finds mistakes."""
    from tactful_privacy import ParameterError
    from tactful_privacy.audit import QUICK, THOROUGH, audit

    effort = QUICK if quick else THOROUGH
    if canaries is not None:
        effort = replace(effort, canaries=canaries)
    try:
        with tqdm(unit="pipeline", disable=not sys.stderr.isatty()) as bar:

            def done(name: str) -> None:
                bar.set_postfix_str(name)
                bar.update()

            report = audit(cap, epsilon, effort, progress=done)
    except ParameterError as error:
        raise ConfigError(str(error)) from error
    printed = json_file is not None and json_file.name == "-"
    if json_file is not None:
        document = msgspec.json.format(msgspec.json.encode(report.to_dict()), indent=2)
        json_file.write(document + b"\n")
    if plots is not None:
        from tactful.privacy_plots import write_plots

        write_plots(report, plots)
    if not printed:
        click.echo(str(report))
    if not report.pipeline.passed:
        raise SystemExit(1)
    if not report.trustworthy:
        raise SystemExit(_AUDIT_IN_VAIN)
