"""The benchmark `search`; `run` measures, the other modules hold its parts."""
