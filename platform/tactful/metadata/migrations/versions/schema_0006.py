"""Decisions on coupons, budgets and read offsets of the log."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    # MySQL commits table by table: an upgrade that broke off has made it already.
    "if_not_exists": True,
}


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
        **_OPTIONS,
    )
    op.create_table(
        "coupon_budgets",
        sa.Column("campaign", sa.String(64), primary_key=True),
        sa.Column("state", sa.LargeBinary, nullable=False),
        **_OPTIONS,
    )
    op.create_table(
        "coupon_positions",
        sa.Column("log_partition", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("position", sa.BigInteger, nullable=False),
        **_OPTIONS,
    )
