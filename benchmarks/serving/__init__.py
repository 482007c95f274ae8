"""The benchmark `serving`; `run` measures, the other modules hold its parts."""
