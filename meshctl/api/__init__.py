"""The client of a control service: synchronous, and independent of meshnode."""

from typing import Any

JsonObject = dict[str, Any]
"""A reply of a node, as it came."""

PLACEMENTS = frozenset({"any", "random", "least"})
"""What stands for a node where the node that takes a submission chooses one. A node of such a name
can be named by nobody."""
