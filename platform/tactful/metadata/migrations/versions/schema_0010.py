"""Private releases of the effect against the permanent holdout, one for each week."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tactful.metadata.migrations import TABLE_OPTIONS

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "worth_releases",
        sa.Column("week", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("released", sa.Text, nullable=False),
        **TABLE_OPTIONS,
    )
