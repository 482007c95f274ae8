"""Terms of API keys, which are their end and their limits, and their last use."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tactful.metadata.migrations import TABLE_OPTIONS

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "key_terms",
        sa.Column("key_id", sa.String(8), primary_key=True),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("rate", sa.Double),
        sa.Column("burst", sa.BigInteger),
        sa.Column("requests_per_day", sa.BigInteger),
        sa.Column("events_per_day", sa.BigInteger),
        **TABLE_OPTIONS,
    )
    op.create_table(
        "key_uses",
        sa.Column("key_id", sa.String(8), primary_key=True),
        sa.Column("day", sa.BigInteger, nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        **TABLE_OPTIONS,
    )
