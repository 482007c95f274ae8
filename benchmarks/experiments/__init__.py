"""The benchmark `experiments`; `run` measures, the other modules hold its parts."""
