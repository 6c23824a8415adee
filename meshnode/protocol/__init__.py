"""The protocol without IO: bytes to values and decisions, with the clock as an argument."""
