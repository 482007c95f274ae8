"""Search of items by text and picture: their words, near vectors, filters and counts, pages.

It may import `catalogue`, `event_log`, `ranking`, `recall`, `schemas`, `understanding`, `util`,
`vectors`. Begin with `item_finder`.
"""
