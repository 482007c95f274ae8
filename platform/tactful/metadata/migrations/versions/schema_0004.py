"""Erasures by the owners of partitions, and their progress."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from tactful.metadata.migrations import TABLE_OPTIONS

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the tables."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "purges",
        sa.Column("number", number, primary_key=True, autoincrement=False),
        sa.Column("receipt", sa.String(32), nullable=False, unique=True),
        sa.Column("traces", sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")),
        sa.Column("partitions", sa.Integer, nullable=False),
        **TABLE_OPTIONS,
    )
    op.create_table(
        "purged_partitions",
        sa.Column("name", sa.String(512), primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        **TABLE_OPTIONS,
    )
