"""Units that run commands of this machine."""
