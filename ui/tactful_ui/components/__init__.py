"""Charts, number formats and the frame that pages share.

It imports no other sub-package of `tactful_ui`.
Begin with `shell`.
"""
