"""Faults: invalid inputs, and damage to the files of an installation."""
