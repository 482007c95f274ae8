"""Commands that watch an installation: alerts, metrics."""
