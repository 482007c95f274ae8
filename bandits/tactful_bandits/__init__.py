"""Experiment assignment, statistics and decision policies."""
