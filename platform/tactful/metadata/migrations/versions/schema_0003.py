"""Decisions on consent, suppressed users and erasures."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from tactful.metadata.migrations import TABLE_OPTIONS

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    digest = sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
    op.create_table(
        "consent_decisions",
        sa.Column("version", number, primary_key=True, autoincrement=False),
        sa.Column("person", sa.String(300), nullable=False),
        sa.Column("purposes", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("recorded_at", sa.BigInteger, nullable=False),
        sa.Column("source", sa.String(255), nullable=False),
        **TABLE_OPTIONS,
    )
    name = "ix_consent_decisions_person"
    found = sa.inspect(op.get_bind()).get_indexes("consent_decisions")
    if name not in [index["name"] for index in found]:
        op.create_index(name, "consent_decisions", ["person"])
    op.create_table(
        "suppressions",
        sa.Column("number", number, primary_key=True, autoincrement=False),
        sa.Column("key_id", sa.Integer, nullable=False),
        sa.Column("digest", digest, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        **TABLE_OPTIONS,
    )
    op.create_table(
        "erasures",
        sa.Column("receipt", sa.String(32), primary_key=True),
        sa.Column("person", sa.String(300)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("requested_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("done_at", sa.BigInteger),
        sa.Column("report", sa.Text, nullable=False),
        **TABLE_OPTIONS,
    )
