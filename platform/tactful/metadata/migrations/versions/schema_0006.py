"""Decisions on coupons, budgets and read offsets of the log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from tactful.metadata.migrations import TABLE_OPTIONS

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "coupon_offers",
        sa.Column("code", sa.String(32), primary_key=True),
        sa.Column("campaign", sa.String(64), nullable=False),
        sa.Column("decision", sa.Text, nullable=False),
        sa.Column("cost", sa.Double, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        **TABLE_OPTIONS,
    )
    op.create_table(
        "coupon_budgets",
        sa.Column("campaign", sa.String(64), primary_key=True),
        sa.Column("state", sa.LargeBinary, nullable=False),
        **TABLE_OPTIONS,
    )
    op.create_table(
        "coupon_positions",
        sa.Column("log_partition", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        **TABLE_OPTIONS,
    )
