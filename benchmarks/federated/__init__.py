"""The benchmark `federated`; `run` measures, the other modules hold its parts."""
