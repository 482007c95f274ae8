"""A package, so that no installed package of this name is found first in a new process."""
