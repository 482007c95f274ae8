"""Runs of federated training and their rounds, as training servers report them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from tactful.metadata.migrations import TABLE_OPTIONS

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Make the tables."""
    long_text = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
    op.create_table(
        "federated_runs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("about", long_text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("reported_by", sa.String(255), nullable=False),
        **TABLE_OPTIONS,
    )
    op.create_table(
        "federated_rounds",
        sa.Column("run", sa.String(32), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("figures", sa.Text, nullable=False),
        **TABLE_OPTIONS,
    )
