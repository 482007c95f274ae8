"""``tactful features propose``: definitions for the properties that a log has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from tactful.cli import options as cli
from tactful.config.settings import Settings
from tactful.errors import ConfigError, ModelError
from tactful.ranking.own_columns import MOST_COLUMNS, own_columns
from tactful.training.log_profile import profile_log
from tactful.training.propose import Proposals, as_yaml, propose
from tactful_privacy.durable_files import replace_file


@click.command(
    "propose",
    epilog=cli.example(
        "tactful features propose --out new.yaml",
        "tactful features propose --data /var/lib/tactful --most 10 --json",
    ),
)
@cli.with_settings
@click.option("--out", type=cli.any_file, help="New file of definitions; default: print it.")
@click.option(
    "--most",
    type=click.IntRange(1, MOST_COLUMNS),
    default=MOST_COLUMNS,
    help="Maximum number of proposals.",
)
@cli.json_option
def propose_features(settings: Settings, out: Path | None, most: int, as_json: bool) -> None:
    """Propose definitions for the properties that events and items have.

    The log is read once, also beside a running server. The result is a whole file: the present
    definitions and below them the proposed ones, each with its reason. Properties that are
    constant, mostly missing, an identity or personal data are left out, and listed.
    """
    # Here, or every command of the group would wait for what a training imports.
    from tactful.models.training_run import open_training_log

    if out is not None and out.exists():
        raise ConfigError(f"--out: {out} exists; name a new file")
    if out is not None and not out.absolute().parent.is_dir():
        raise ConfigError(f"--out: there is no folder {out.parent}")
    with (
        cli.progress_bar(quiet=as_json, unit="record", desc="propose", unit_scale=True) as bar,
        open_training_log(settings) as (log, definitions),
    ):
        profile = profile_log(log, cli.advance(bar))
    events = sum(kind.count for kind in profile.events.values())
    if not events:
        raise ModelError("the log has no event yet that may be used: nothing to propose from")
    room = max(MOST_COLUMNS - len(own_columns(definitions)), 0)
    proposals = propose(profile, definitions, min(most, room))
    text = as_yaml(proposals, settings.features.read_text("utf-8"))
    if out is not None:
        try:
            replace_file(out, text.encode())
        except OSError as error:
            raise ConfigError(f"--out: {out} cannot be written: {error.strerror}") from error
    if as_json:
        cli.print_json(
            {
                "events": events,
                "items": profile.items.count,
                "proposed": [
                    {"definition": each.feature.as_data(), "why": each.why}
                    for each in proposals.proposed
                ],
                "refused": [{"source": it.source, "why": it.why} for it in proposals.refused],
            }
        )
        return
    if out is None:
        click.echo(text, nl=False)
    _report(proposals, out)


def _report(proposals: Proposals, out: Path | None) -> None:
    for refused in proposals.refused:
        click.echo(f"left out: {refused.source}: {refused.why}", err=True)
    count = len(proposals.proposed)
    entities = Counter(each.feature.entity for each in proposals.proposed)
    of = ", ".join(f"{number} of {entity}" for entity, number in sorted(entities.items()))
    click.echo(f"{count} definitions proposed{f': {of}' if of else ''}", err=True)
    if out is not None and count:
        click.echo(f"Next: tactful features plan --features {out}", err=True)
