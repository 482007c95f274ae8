"""Commands around private statistics: ``tactful privacy …``."""

from __future__ import annotations

import click


@click.group()
def privacy() -> None:
    """Attack the published numbers, and see what they cost."""
