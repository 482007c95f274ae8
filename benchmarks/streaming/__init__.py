"""The benchmark `streaming`; `run` measures, the other modules hold its parts."""
