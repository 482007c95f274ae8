"""How the dashboard is started: the command line of ``streamlit run``."""

from __future__ import annotations

import sys
from pathlib import Path

ENTRY = Path(__file__).with_name("app.py")
"""The file that ``streamlit run`` is given, in a checkout as well as in an installed wheel."""


def streamlit_command(
    *, address: str = "127.0.0.1", port: int = 8501, headless: bool = False
) -> list[str]:
    """The command that serves the dashboard.

    Streamlit's usage statistics are off, whatever a configuration file of the reader says.

    Args:
        address: where to listen. Whoever can open it sees what the dashboard's API key may see.
        port: TCP port to listen on.
        headless: do not open a browser.
    """
    options = {
        "server.address": address,
        "server.port": str(port),
        "server.headless": str(headless).lower(),
        "browser.gatherUsageStats": "false",
    }
    command = [sys.executable, "-m", "streamlit", "run", str(ENTRY)]
    return command + [f"--{name}={value}" for name, value in options.items()]
