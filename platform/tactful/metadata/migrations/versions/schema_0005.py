"""Rollouts, their looks and their changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from tactful.metadata.migrations import TABLE_OPTIONS

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Make the tables."""
    long_text = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
    op.create_table(
        "rollouts",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("definition", long_text, nullable=False),
        sa.Column("rollout", long_text, nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("active", sa.Integer, nullable=False),
        sa.Column("archived", sa.Integer, nullable=False),
        sa.Column("looks", sa.BigInteger, nullable=False),
        sa.Column("looked_at", sa.BigInteger, nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False),
        **TABLE_OPTIONS,
    )
    op.create_table(
        "rollout_looks",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("stage", sa.Integer, nullable=False),
        sa.Column("said", sa.Text, nullable=False),
        **TABLE_OPTIONS,
    )
    op.create_table(
        "rollout_changes",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("share", sa.Double, nullable=False),
        sa.Column("changed_by", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        **TABLE_OPTIONS,
    )
