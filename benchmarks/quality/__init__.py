"""The benchmark `quality`; `run` measures, the other modules hold its parts."""
