"""Migrations of the metadata's schema, run by ``tactful.metadata.store``.

A step must bear to be run again after it broke off: MySQL commits each ``CREATE TABLE`` by itself.
A step that was released is never changed, and neither are the options that the steps share.
"""

from __future__ import annotations

from typing import Any

TABLE_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    # Left by an upgrade that broke off, or by version 0.1, whose table of API keys is the same.
    "if_not_exists": True,
}
