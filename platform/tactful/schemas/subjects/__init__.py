"""Requests and answers about people, the budget of privacy and the audit trail.

They import no other sub-package of `tactful`. Begin with `people`.
"""
