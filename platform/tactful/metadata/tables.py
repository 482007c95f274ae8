"""Tables of the metadata after the newest migration."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

_long_text = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
_digest = sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
_profile = sa.LargeBinary(2048).with_variant(mysql.VARBINARY(2048), "mysql", "mariadb")
_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # allows autoincrement in SQLite

tables = sa.MetaData()  # all tables after the newest migration


def _table(name: str, *columns: sa.Column[Any]) -> sa.Table:
    # Names are compared byte by byte, as in SQLite: `Shop` and `shop` differ.
    options: dict[str, Any] = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin"}
    return sa.Table(name, tables, *columns, mysql_engine="InnoDB", **options)


api_keys = _table(
    "api_keys",
    sa.Column("id", sa.String(8), primary_key=True),
    sa.Column("digest", _digest, nullable=False),
    sa.Column("scopes", sa.String(255), nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("revoked_at", sa.BigInteger),
)
key_terms = _table(
    "key_terms",
    sa.Column("key_id", sa.String(8), primary_key=True),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("rate", sa.Double),
    sa.Column("burst", sa.BigInteger),
    sa.Column("requests_per_day", sa.BigInteger),
    sa.Column("events_per_day", sa.BigInteger),
)
key_uses = _table(
    "key_uses",
    sa.Column("key_id", sa.String(8), primary_key=True),
    sa.Column("day", sa.BigInteger, nullable=False),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("events", sa.BigInteger, nullable=False),
)
definition_versions = _table(
    "definition_versions",
    sa.Column("id", _number, primary_key=True, autoincrement=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("definitions", _long_text, nullable=False),
    sa.Column("applied_at", sa.BigInteger, nullable=False),
    sa.Column("applied_by", sa.Text, nullable=False),
)
backfill_jobs = _table(
    "backfill_jobs",
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
)
model_changes = _table(
    "model_changes",
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
)
consent_decisions = _table(
    "consent_decisions",
    sa.Column("version", _number, primary_key=True, autoincrement=False),
    sa.Column("person", sa.String(300), nullable=False, index=True),
    sa.Column("purposes", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("recorded_at", sa.BigInteger, nullable=False),
    sa.Column("source", sa.String(255), nullable=False),
)
suppressions = _table(
    "suppressions",
    sa.Column("number", _number, primary_key=True, autoincrement=False),
    sa.Column("key_id", sa.Integer, nullable=False),
    sa.Column("digest", _digest, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)
erasures = _table(
    "erasures",
    sa.Column("receipt", sa.String(32), primary_key=True),
    sa.Column("person", sa.String(300)),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("requested_at", sa.BigInteger, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("done_at", sa.BigInteger),
    sa.Column("report", sa.Text, nullable=False),
)
purges = _table(
    "purges",
    sa.Column("number", _number, primary_key=True, autoincrement=False),
    sa.Column("receipt", sa.String(32), nullable=False, unique=True),
    sa.Column("traces", sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")),
    sa.Column("partitions", sa.Integer, nullable=False),
)
purged_partitions = _table(
    "purged_partitions",
    sa.Column("name", sa.String(512), primary_key=True),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)
person_accesses = _table(
    "person_accesses",
    sa.Column("id", _number, primary_key=True, autoincrement=True),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("key_id", sa.Integer, nullable=False),
    sa.Column("digest", _digest, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("accessed_by", sa.Text, nullable=False),
)
imports = _table(
    "imports",
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("number", _number, nullable=False, unique=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("begun_at", sa.BigInteger, nullable=False),
    sa.Column("ended_at", sa.BigInteger),
    sa.Column("begun_by", sa.Text, nullable=False),
    sa.Column("accepted", sa.BigInteger, nullable=False),
    sa.Column("refused", sa.BigInteger, nullable=False),
    sa.Column("report", _long_text, nullable=False),
    sa.Column("problem", sa.Text, nullable=False),
)
changes = _table(
    "changes",
    sa.Column("id", _number, primary_key=True, autoincrement=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("target", sa.String(255), nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)
privacy_audits = _table(
    "privacy_audits",
    sa.Column("id", _number, primary_key=True, autoincrement=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("passed", sa.Integer, nullable=False),
    sa.Column("trustworthy", sa.Integer, nullable=False),
    sa.Column("report", _long_text, nullable=False),
)
rollouts = _table(
    "rollouts",
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
)
rollout_looks = _table(
    "rollout_looks",
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("stage", sa.Integer, nullable=False),
    sa.Column("said", sa.Text, nullable=False),
)
worth_releases = _table(
    "worth_releases",
    sa.Column("week", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("released", sa.Text, nullable=False),
)
rollout_changes = _table(
    "rollout_changes",
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("action", sa.String(64), nullable=False),
    sa.Column("share", sa.Double, nullable=False),
    sa.Column("changed_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
federated_runs = _table(
    "federated_runs",
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("about", _long_text, nullable=False),
    sa.Column("started_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("reported_by", sa.String(255), nullable=False),
)
federated_rounds = _table(
    "federated_rounds",
    sa.Column("run", sa.String(32), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("figures", sa.Text, nullable=False),
)
coupon_offers = _table(
    "coupon_offers",
    sa.Column("code", sa.String(32), primary_key=True),
    sa.Column("campaign", sa.String(64), nullable=False),
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("cost", sa.Double, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
)
coupon_budgets = _table(
    "coupon_budgets",
    sa.Column("campaign", sa.String(64), primary_key=True),
    sa.Column("state", sa.LargeBinary, nullable=False),
)
coupon_positions = _table(
    "coupon_positions",
    sa.Column("log_partition", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, nullable=False),
)
bandits = _table(
    "bandits",
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("definition", _long_text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("changed_at", sa.BigInteger, nullable=False),
    sa.Column("changed_by", sa.Text, nullable=False),
)
alerts = _table(
    "alerts",
    sa.Column("id", _number, primary_key=True, autoincrement=True),
    sa.Column("key", sa.String(255), nullable=False),
    sa.Column("rule", sa.String(64), nullable=False),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("severity", sa.String(16), nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("opened_at", sa.BigInteger, nullable=False),
    sa.Column("cleared_at", sa.BigInteger),
    sa.Column("acknowledged_at", sa.BigInteger),
    sa.Column("acknowledged_by", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("routed", sa.Text, nullable=False),
)
alert_messages = _table(
    "alert_messages",
    sa.Column("id", _number, primary_key=True, autoincrement=True),
    sa.Column("alert", sa.BigInteger, nullable=False),
    sa.Column("sink", sa.String(128), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("problem", sa.Text, nullable=False),
)
alert_rules = _table(
    "alert_rules",
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("rule", sa.Text, nullable=False),
    sa.Column("changed_at", sa.BigInteger, nullable=False),
    sa.Column("changed_by", sa.Text, nullable=False),
)
alert_silences = _table(
    "alert_silences",
    sa.Column("id", _number, primary_key=True, autoincrement=True),
    sa.Column("rule", sa.String(64), nullable=False),
    sa.Column("labels", sa.Text, nullable=False),
    sa.Column("begins_at", sa.BigInteger, nullable=False),
    sa.Column("ends_at", sa.BigInteger, nullable=False),
    sa.Column("made_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)
alert_evaluator = _table(
    "alert_evaluator",
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    # The next three were a lease of the evaluator alone; now `leases` holds that of all tasks.
    sa.Column("holder", sa.String(128), nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
    sa.Column("evaluated_at", sa.BigInteger, nullable=False),
    sa.Column("memory", sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")),
)
metric_plans = _table(
    "metric_plans",
    sa.Column("id", _number, primary_key=True, autoincrement=True),
    sa.Column("experiment", sa.String(255), nullable=False, index=True),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("registered_by", sa.String(255), nullable=False),
    sa.Column("analysis", _long_text, nullable=False),
)
metric_releases = _table(
    "metric_releases",
    sa.Column("experiment", sa.String(255), primary_key=True),
    sa.Column("metric", sa.String(128), primary_key=True),
    sa.Column("day", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("released", _long_text, nullable=False),
)
flag_versions = _table(
    "flag_versions",
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("author", sa.Text, nullable=False),
    sa.Column("action", sa.String(16), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("file", sa.Text, nullable=False),
    sa.Column("definitions", _long_text, nullable=False),
    sa.Column("payload", _long_text, nullable=False),
    sa.Column("killed", _long_text, nullable=False),
    sa.Column("experiments", _long_text, nullable=False),
    sa.Column("differences", _long_text, nullable=False),
)
flag_secrets = _table(
    "flag_secrets",
    sa.Column("name", sa.String(16), primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)
flag_arms = _table(
    "flag_arms",
    sa.Column("document", sa.String(320), primary_key=True),
    sa.Column("experiment", sa.String(160), primary_key=True),
    sa.Column("person", sa.String(300), nullable=False, index=True),
    sa.Column("arm", sa.String(160), nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
)
flag_uses = _table(
    "flag_uses",
    sa.Column("flag", sa.String(160), primary_key=True),
    sa.Column("first_at", sa.BigInteger, nullable=False),
    sa.Column("last_at", sa.BigInteger, nullable=False),
    sa.Column("varied_at", sa.BigInteger, nullable=False),
    sa.Column("value", sa.String(32), nullable=False),
)
crossed_profiles = _table(
    "crossed_profiles",
    sa.Column("person", sa.String(300), primary_key=True),
    sa.Column("releasing", sa.String(64), primary_key=True),
    sa.Column("number", _number, nullable=False, unique=True),
    sa.Column("embedding", sa.String(64), nullable=False),
    sa.Column("crossed_at", sa.BigInteger, nullable=False),
    sa.Column("profile", _profile, nullable=False),
)
used_tokens = _table(
    "used_tokens",
    sa.Column("token_id", sa.String(64), primary_key=True),
    sa.Column("number", _number, nullable=False, unique=True),
    sa.Column("expires_at", sa.BigInteger, nullable=False),
)
leases = _table(
    "leases",
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(128), nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)
webhook_positions = _table(
    "webhook_positions",
    sa.Column("topic", sa.String(249), primary_key=True),
    sa.Column("log_partition", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("position", sa.BigInteger, nullable=False),
)
webhook_deliveries = _table(
    "webhook_deliveries",
    sa.Column("topic", sa.String(249), primary_key=True),
    sa.Column("log_partition", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("log_offset", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event_key", sa.String(64), nullable=False, index=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("problem", sa.Text, nullable=False),
)
