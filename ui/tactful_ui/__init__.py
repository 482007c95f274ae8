"""The Streamlit dashboard, which speaks to the platform over HTTP only.

``tactful dashboard`` serves it. The package has no other public face than the file that
``streamlit run`` is given: its modules are the pages and what they share.
"""

from pathlib import Path

__all__ = ["ENTRY"]

ENTRY = Path(__file__).with_name("app.py")
"""What ``streamlit run`` is given, in a checkout as well as in an installed wheel."""
