"""Mutation testing: the share of small changes to the code that fail a test."""
