"""The durable ledger of budgets and releases, and composition of losses.

It may import `mechanisms`, `people`.
Begin with `ledger`.
"""
