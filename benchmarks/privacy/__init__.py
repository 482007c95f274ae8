"""The benchmark `privacy`; `run` measures, the other modules hold its parts."""
