"""The client of a control service: synchronous, and independent of meshnode."""

from typing import Any

JsonObject = dict[str, Any]
"""A reply of a node, as it came."""
