"""Migrations of the metadata's schema, run by ``tactful.metadata.store``.

A step must bear to be run again after it broke off: MySQL commits each ``CREATE TABLE`` by itself.
A step that was released is never changed.
"""
