"""The Streamlit dashboard, which speaks to the platform over HTTP only.

``python -m tactful_ui`` serves it. The package has no other public face than how it is started: its
modules are the pages and what they share.
"""

from tactful_ui.launch import ENTRY, streamlit_command

__all__ = ["ENTRY", "streamlit_command"]
