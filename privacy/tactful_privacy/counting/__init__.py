"""Bounded contributions, release of panes, and released numbers.

It may import `ledger`, `mechanisms`, `people`.
Begin with `bounded_counts`.
"""
