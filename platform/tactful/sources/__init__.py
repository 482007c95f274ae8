"""Messages of Segment, RudderStack, GA4 and other programs, mapped to events and users.

It may import `kernels`, `metrics`, `schemas`, `util`.
Begin with `mapping`.
"""
