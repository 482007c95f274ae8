"""The Streamlit dashboard, a client of the platform's HTTP API.

``tactful dashboard`` serves it. `app` is the entry and holds the navigation; `overview`, `released`
and `system` are the pages, `shell` holds their shared parts, `source` fetches data, `report` parses
it, and `charts` and `formats` present it. It may import `tactful.client` only.
"""

from pathlib import Path

__all__ = ["ENTRY"]

ENTRY = Path(__file__).with_name("app.py")
"""File for ``streamlit run``, in a checkout as well as in an installed wheel."""
