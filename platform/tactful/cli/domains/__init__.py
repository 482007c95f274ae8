"""``tactful domains``: keys of a domain. Begin with `keys`."""
