"""Units that run on other nodes: submitted once, followed to their end."""
