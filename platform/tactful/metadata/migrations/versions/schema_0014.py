"""Analyses of experiments by metrics, and when they were fixed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from tactful.metadata.migrations import TABLE_OPTIONS

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "metric_plans",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("experiment", sa.String(255), nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("registered_by", sa.String(255), nullable=False),
        sa.Column(
            "analysis",
            sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb"),
            nullable=False,
        ),
        **TABLE_OPTIONS,
    )
    name = "ix_metric_plans_experiment"
    found = sa.inspect(op.get_bind()).get_indexes("metric_plans")
    if name not in [index["name"] for index in found]:
        op.create_index(name, "metric_plans", ["experiment"])
