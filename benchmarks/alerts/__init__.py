"""Alerts on the series of a real shop: false ones, and how soon injected faults are found."""
