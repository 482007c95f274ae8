"""Run ``tactful demo`` on a few households and without the intent model, which takes most time.

CI runs the whole demo elsewhere.
"""

from __future__ import annotations

import sys
from unittest import mock

from tactful.cli.main import main
from tactful.demo import demo
from tactful.demo.datasets import completejourney

if __name__ == "__main__":
    data = completejourney(households=int(sys.argv.pop(1)))
    few = mock.patch.object(demo, "_load", lambda options: data)
    with few, mock.patch.dict(sys.modules, {"tactful_federated": None}):
        main()
