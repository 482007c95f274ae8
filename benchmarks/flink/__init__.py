"""Flink beside the engine: freshness, equality of values and recommendations, kills, and cost."""
