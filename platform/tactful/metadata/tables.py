"""Tables of the metadata after the newest migration."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

# Names are compared byte by byte, as in SQLite: `Shop` and `shop` differ.
_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
}
_long_text = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
_digest = sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # allows autoincrement in SQLite

tables = sa.MetaData()
"""All tables after the newest migration."""

api_keys = sa.Table(
    "api_keys",
    tables,
    sa.Column("id", sa.String(8), primary_key=True),
    sa.Column("digest", _digest, nullable=False),
    sa.Column("scopes", sa.String(255), nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("revoked_at", sa.BigInteger),
    **_OPTIONS,
)
definition_versions = sa.Table(
    "definition_versions",
    tables,
    sa.Column("id", _number, primary_key=True, autoincrement=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("definitions", _long_text, nullable=False),
    sa.Column("applied_at", sa.BigInteger, nullable=False),
    sa.Column("applied_by", sa.Text, nullable=False),
    **_OPTIONS,
)
backfill_jobs = sa.Table(
    "backfill_jobs",
    tables,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("log_partition", sa.Integer, nullable=False),
    sa.Column("features", _long_text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("end_position", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("error", sa.Text),
    **_OPTIONS,
)
model_changes = sa.Table(
    "model_changes",
    tables,
    sa.Column("id", _number, primary_key=True, autoincrement=True),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("name", sa.String(255), nullable=False),
    sa.Column("version", sa.String(64), nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("changed_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("begun_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("error", sa.Text),
    **_OPTIONS,
)
consent_decisions = sa.Table(
    "consent_decisions",
    tables,
    sa.Column("version", _number, primary_key=True, autoincrement=False),
    sa.Column("person", sa.String(300), nullable=False, index=True),
    sa.Column("purposes", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("recorded_at", sa.BigInteger, nullable=False),
    sa.Column("source", sa.String(255), nullable=False),
    **_OPTIONS,
)
suppressions = sa.Table(
    "suppressions",
    tables,
    sa.Column("number", _number, primary_key=True, autoincrement=False),
    sa.Column("key_id", sa.Integer, nullable=False),
    sa.Column("digest", _digest, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    **_OPTIONS,
)
erasures = sa.Table(
    "erasures",
    tables,
    sa.Column("receipt", sa.String(32), primary_key=True),
    sa.Column("person", sa.String(300)),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("requested_at", sa.BigInteger, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("done_at", sa.BigInteger),
    sa.Column("report", sa.Text, nullable=False),
    **_OPTIONS,
)
purges = sa.Table(
    "purges",
    tables,
    sa.Column("number", _number, primary_key=True, autoincrement=False),
    sa.Column("receipt", sa.String(32), nullable=False, unique=True),
    sa.Column("traces", sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")),
    sa.Column("partitions", sa.Integer, nullable=False),
    **_OPTIONS,
)
purged_partitions = sa.Table(
    "purged_partitions",
    tables,
    sa.Column("name", sa.String(512), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    **_OPTIONS,
)
rollouts = sa.Table(
    "rollouts",
    tables,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("definition", _long_text, nullable=False),
    sa.Column("rollout", _long_text, nullable=False),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("active", sa.Integer, nullable=False),
    sa.Column("archived", sa.Integer, nullable=False),
    sa.Column("looks", sa.BigInteger, nullable=False),
    sa.Column("looked_at", sa.BigInteger, nullable=False),
    sa.Column("run_id", sa.String(64), nullable=False),
    **_OPTIONS,
)
rollout_looks = sa.Table(
    "rollout_looks",
    tables,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("stage", sa.Integer, nullable=False),
    sa.Column("said", sa.Text, nullable=False),
    **_OPTIONS,
)
rollout_changes = sa.Table(
    "rollout_changes",
    tables,
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("share", sa.Double, nullable=False),
    sa.Column("changed_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    **_OPTIONS,
)
coupon_offers = sa.Table(
    "coupon_offers",
    tables,
    sa.Column("code", sa.String(32), primary_key=True),
    sa.Column("campaign", sa.String(64), nullable=False),
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("cost", sa.Double, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    **_OPTIONS,
)
coupon_budgets = sa.Table(
    "coupon_budgets",
    tables,
    sa.Column("campaign", sa.String(64), primary_key=True),
    sa.Column("state", sa.LargeBinary, nullable=False),
    **_OPTIONS,
)
coupon_positions = sa.Table(
    "coupon_positions",
    tables,
    sa.Column("log_partition", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    **_OPTIONS,
)
