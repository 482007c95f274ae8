"""Bandits: definition and state of each."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from tactful.metadata.migrations import TABLE_OPTIONS

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Make the table."""
    long_text = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
    op.create_table(
        "bandits",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("definition", long_text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.Column("changed_by", sa.Text, nullable=False),
        **TABLE_OPTIONS,
    )
