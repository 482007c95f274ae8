"""``tactful check-data``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tactful.cli import options as cli
from tactful.cli.exit_codes import ExitCode
from tactful.cli.remote.file_options import Understanding, understanding_options
from tactful.imports.plan import described
from tactful.imports.progress import ProgressStore
from tactful.imports.run import Job, prepare
from tactful.quality.file_check import check
from tactful.quality.page import render
from tactful.schemas.data.quality import Finding, Quality
from tactful.util.clock import now_ms

_options = cli.with_options(
    click.argument("file", type=cli.existing_file),
    understanding_options,
    click.option(
        "--html",
        "page",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write the report as a page to this file.",
    ),
    click.option("--strict", is_flag=True, help="Fail for warnings, too."),
    cli.json_option,
)


def _grouped(command: Callable[..., None]) -> Callable[..., Any]:
    return _options(cli.grouped("given", Understanding)(command))


@click.command(
    "check-data",
    epilog=cli.example(
        "tactful check-data orders.csv --html report.html",
        "tactful check-data products.xml --strict --json",
    ),
)
@_grouped
def check_data(
    file: Path, given: Understanding, page: Path | None, strict: bool, as_json: bool
) -> None:
    """Check FILE before it is imported: missing values, types, ranges, duplicates.

    The first half of FILE is compared with the second. Nothing is sent. The exit code is 7 if the
    check fails.
    """
    job = prepare(file, given.checked(), "", ProgressStore(None), restart=True)
    job.folder = file.parent
    reader, scale = job.reader, job.reader.unit == "B"
    with cli.progress_bar(
        quiet=as_json, total=reader.total, unit=reader.unit, unit_scale=scale, desc=file.name
    ) as bar:
        quality = check(job, now=now_ms(), advanced=bar.update)
    if page is not None:
        page.write_text(render(file.name, quality), "utf-8")
    if as_json:
        cli.print_json(quality)
    else:
        _show(job, quality)
    if not quality.passed or (strict and quality.findings):
        raise SystemExit(ExitCode.PROBLEM_FOUND)


def _show(job: Job, quality: Quality) -> None:
    for line in described(job.guess):
        click.echo(line, err=True)
    for each in quality.fields:
        kinds = ", ".join(each.types)
        reach = "" if each.lowest is None else f", {each.lowest:g} to {each.highest:g}"
        values = "many values" if each.distinct is None else f"{each.distinct:,} values"
        missing = f"{each.missing:6.1%} missing"
        click.echo(f"{missing}  {each.of} {each.field}: {kinds}, {values}{reach}")
    for code, number in quality.refused.items():
        click.echo(f"refused: {number:,} {code}")
    for finding in quality.findings:
        click.echo(f"{finding.level}: {_place(finding)}{finding.message}")
    click.echo(f"{quality.elements:,} elements: {'passed' if quality.passed else 'failed'}")


def _place(finding: Finding) -> str:
    place = f"{finding.of} {finding.field}".strip()
    return f"{place} " if place else ""
