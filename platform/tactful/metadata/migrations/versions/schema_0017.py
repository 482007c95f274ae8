"""Profiles of users that crossed from other domains, and the tokens that brought them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from tactful.metadata.migrations import TABLE_OPTIONS

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Make the tables."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "crossed_profiles",
        sa.Column("person", sa.String(300), primary_key=True),
        sa.Column("releasing", sa.String(64), primary_key=True),
        sa.Column("number", number, nullable=False, unique=True),
        sa.Column("embedding", sa.String(64), nullable=False),
        sa.Column("crossed_at", sa.BigInteger, nullable=False),
        sa.Column(
            "profile",
            sa.LargeBinary(2048).with_variant(mysql.VARBINARY(2048), "mysql", "mariadb"),
            nullable=False,
        ),
        **TABLE_OPTIONS,
    )
    op.create_table(
        "used_tokens",
        sa.Column("token_id", sa.String(64), primary_key=True),
        sa.Column("number", number, nullable=False, unique=True),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        **TABLE_OPTIONS,
    )
