"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
config_option = click.option("--config", type=click.Path(path_type=Path), help="Settings file.")
data_option = click.option("--data", type=click.Path(path_type=Path), help="Data directory.")
outcome_option = click.option(
    "--outcome",
    "outcomes",
    multiple=True,
    default=("click", "add_to_cart", "purchase"),
    show_default=True,
    help="Type of event that says an item of a list was taken; may be given repeatedly.",
)
outcome_hours_option = click.option(
    "--outcome-hours",
    type=click.FloatRange(min=0.01),
    default=24.0,
    show_default=True,
    help="How long after a list what follows from it counts.",
)
