"""Environment of Alembic, on the connection of ``tactful.metadata.store``."""

from __future__ import annotations

from alembic import context

from tactful.metadata.store import VERSION_TABLE
from tactful.metadata.tables import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
