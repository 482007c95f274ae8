"""Versions of the flags, their secrets, the arms of sticky experiments, and uses of flags."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from tactful.metadata.migrations import TABLE_OPTIONS

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Make the tables."""
    long_text = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
    op.create_table(
        "flag_versions",
        sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("action", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("file", sa.Text, nullable=False),
        sa.Column("definitions", long_text, nullable=False),
        sa.Column("payload", long_text, nullable=False),
        sa.Column("killed", long_text, nullable=False),
        sa.Column("experiments", long_text, nullable=False),
        sa.Column("differences", long_text, nullable=False),
        **TABLE_OPTIONS,
    )
    op.create_table(
        "flag_secrets",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
        **TABLE_OPTIONS,
    )
    op.create_table(
        "flag_arms",
        sa.Column("document", sa.String(320), primary_key=True),
        sa.Column("experiment", sa.String(160), primary_key=True),
        sa.Column("person", sa.String(300), nullable=False),
        sa.Column("arm", sa.String(160), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        **TABLE_OPTIONS,
    )
    name = "ix_flag_arms_person"
    found = sa.inspect(op.get_bind()).get_indexes("flag_arms")
    if name not in [index["name"] for index in found]:
        op.create_index(name, "flag_arms", ["person"])
    op.create_table(
        "flag_uses",
        sa.Column("flag", sa.String(160), primary_key=True),
        sa.Column("first_at", sa.BigInteger, nullable=False),
        sa.Column("last_at", sa.BigInteger, nullable=False),
        sa.Column("varied_at", sa.BigInteger, nullable=False),
        sa.Column("value", sa.String(32), nullable=False),
        **TABLE_OPTIONS,
    )
