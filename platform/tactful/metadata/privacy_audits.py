"""Results of privacy audits, kept for the dashboard."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from tactful.metadata.store import MetadataStore
from tactful.metadata.tables import privacy_audits
from tactful.schemas.subjects.privacy import PrivacyAudit


def keep_audit(metadata: MetadataStore, audit: PrivacyAudit) -> None:
    """Keep the result of an audit; StorageError if the database cannot be used."""
    row = {"at": audit.at, "passed": audit.passed, "trustworthy": audit.trustworthy}
    report = msgspec.json.encode(audit).decode()
    insert = sa.insert(privacy_audits).values(**row, report=report)
    metadata.change(lambda connection: connection.execute(insert))


def last_audit(metadata: MetadataStore) -> PrivacyAudit | None:
    """Return the result that was kept last, or None."""
    latest = sa.select(privacy_audits.c.report).order_by(privacy_audits.c.id.desc()).limit(1)
    rows = metadata.fetch(latest)
    return msgspec.json.decode(rows[0].report, type=PrivacyAudit) if rows else None
