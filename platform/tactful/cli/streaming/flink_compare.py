"""``tactful flink compare``: whether two computations of one log have the same values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.errors import TactfulError
from tactful.feature_workers.compare import compare_computations
from tactful_streaming.online.comparison import ComparedFeature, Comparison

# The codes of `diff`, so that a script can tell a difference from a comparison that failed.
_EQUAL: Final = 0
_DIFFERENT: Final = 1
_NOT_COMPARED: Final = 2


@click.command(
    epilog=cli.example(
        "tactful flink compare --config tactful.toml --against beside",
        "tactful flink compare --config tactful.toml --against-state data --json report.json",
    )
)
@cli.settings_with(opens=False)
@click.option("--against", "prefix", help="online.prefix of the other side, in the same Redis.")
@click.option(
    "--against-state",
    "states",
    type=cli.any_directory,
    multiple=True,
    help="Data directory of a worker, or of a server without workers, instead; may be repeated.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=60.0,
    help="Seconds to wait until both sides have passed the end of the log.",
)
@click.option("--json", "report", type=cli.any_file, help="File for the result as JSON.")
def compare(
    settings: Settings,
    prefix: str | None,
    states: tuple[Path, ...],
    timeout_s: float,
    report: Path | None,
) -> None:
    """Compare the values of users and visits that two computations of one log keep.

    One side is in Redis under the settings' online.prefix. Exit code 0: equal; 1: different; 2: not
    compared, since a side is behind or cannot be read.
    """
    if (prefix is None) == (not states):
        raise click.UsageError("either --against or --against-state is needed")
    try:
        with cli.progress_bar(unit=" entities", desc="compared") as bar:
            comparison = compare_computations(
                settings,
                prefix=prefix,
                states=states,
                timeout_s=timeout_s,
                progress=cli.advance(bar),
            )
    except TactfulError as error:
        click.echo(f"tactful: not compared: {error}", err=True)
        raise SystemExit(_NOT_COMPARED) from error
    if report is not None:
        report.write_bytes(msgspec.json.format(msgspec.json.encode(_as_json(comparison)), indent=2))
    for line in _lines(comparison):
        click.echo(line)
    raise SystemExit(_code(comparison))


def _code(comparison: Comparison) -> int:
    if comparison.different:
        return _DIFFERENT
    return _NOT_COMPARED if comparison.unsettled else _EQUAL


def _as_json(comparison: Comparison) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(comparison)
    return {"equal": _code(comparison) == _EQUAL, "different": comparison.different, **fields}


def _lines(comparison: Comparison) -> Iterator[str]:
    names = comparison.first, comparison.second
    for kind in comparison.kinds:
        yield (
            f"{kind.entity:<9} {kind.both} in both, {kind.only_first} only in {names[0]}, "
            f"{kind.only_second} only in {names[1]}"
        )
    for feature in comparison.features:
        yield f"{feature.entity:<9} {feature.feature:<32} {feature.different} differ"
        yield from _examples(feature)
    if comparison.unsettled:
        yield f"{comparison.unsettled} entities had new events at each reading: not compared"
    if comparison.different:
        yield f"{names[0]} and {names[1]} are different"
    elif not comparison.unsettled:
        yield f"{names[0]} and {names[1]} are equal"


def _examples(feature: ComparedFeature) -> Iterator[str]:
    for example in feature.examples:
        numbers = example.first, example.second
        values = "" if None in numbers else f": {numbers[0]:g} and {numbers[1]:g}"
        yield f"          {feature.entity} with hash {example.entity}{values}"
