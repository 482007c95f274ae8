"""Life cycle of users: stage, probability of a return, value so far.

Begin with `profile`. It may import `config`, `util`, `schemas`, `errors`, and the packages below
`tactful`.
"""
