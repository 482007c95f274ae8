"""Consent, pseudonyms and the vault of keys for each user.

It imports no other sub-package of `tactful_privacy`.
Begin with `vault`.
"""
