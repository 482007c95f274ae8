"""The benchmark `pipeline`; `run` measures, the other modules hold its parts."""
