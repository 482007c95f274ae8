"""The lease on what one server alone may do, and deliveries of webhooks that servers share."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tactful.metadata.migrations import TABLE_OPTIONS

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "leases",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("holder", sa.String(128), nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        **TABLE_OPTIONS,
    )
    op.create_table(
        "webhook_positions",
        sa.Column("topic", sa.String(249), primary_key=True),
        sa.Column("log_partition", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        **TABLE_OPTIONS,
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("topic", sa.String(249), primary_key=True),
        sa.Column("log_partition", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("log_offset", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("event_key", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("problem", sa.Text, nullable=False),
        **TABLE_OPTIONS,
    )
    name = "ix_webhook_deliveries_event_key"
    found = sa.inspect(op.get_bind()).get_indexes("webhook_deliveries")
    if name not in [index["name"] for index in found]:
        op.create_index(name, "webhook_deliveries", ["event_key"])
