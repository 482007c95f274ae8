"""Accesses to a user's data: exports and erasures, with their authors."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from tactful.metadata.migrations import TABLE_OPTIONS

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the table."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    digest = sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
    op.create_table(
        "person_accesses",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("key_id", sa.Integer, nullable=False),
        sa.Column("digest", digest, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("accessed_by", sa.Text, nullable=False),
        **TABLE_OPTIONS,
    )
