"""The client of a control service: synchronous, and independent of meshnode."""
