"""``python -m tactful_ui``: serve the dashboard until it is interrupted."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence

from tactful_ui.launch import streamlit_command
from tactful_ui.source import DEFAULT_URL


def main(arguments: Sequence[str] | None = None) -> int:
    """Become the dashboard's process; returns, with status 1, only where Streamlit is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m tactful_ui",
        description="Serve the tactful dashboard.",
        epilog="The API key comes from the environment: TACTFUL_API_KEY.",
    )
    parser.add_argument("--url", help=f"address of the tactful server (default: {DEFAULT_URL})")
    parser.add_argument("--address", default="127.0.0.1", help="where to listen (%(default)s)")
    parser.add_argument("--port", type=int, default=8501, help="port to listen on (%(default)s)")
    parser.add_argument("--headless", action="store_true", help="do not open a browser")
    wanted = parser.parse_args(arguments)
    if importlib.util.find_spec("streamlit") is None:
        sys.stderr.write("The dashboard needs Streamlit: pip install 'tactful[dashboard]'\n")
        return 1
    environment = dict(os.environ)
    if wanted.url:
        environment["TACTFUL_URL"] = wanted.url
    command = streamlit_command(address=wanted.address, port=wanted.port, headless=wanted.headless)
    # Streamlit takes this process over, so that a signal to it reaches Streamlit.
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    sys.exit(main())
