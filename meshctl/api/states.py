"""``State`` of a unit of work (protocol section 8)."""

UNFINISHED = frozenset({0, 1})
"""Pending and Running."""

FAILED, CANCELED = 3, 4
"""The states of a unit that ended badly."""
