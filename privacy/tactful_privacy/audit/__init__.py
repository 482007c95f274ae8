"""The privacy audit: attacks on the whole pipeline, with planted bugs.

It may import every other sub-package of `tactful_privacy`.
Begin with `audit`.
"""
