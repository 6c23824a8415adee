"""The commands of meshctl."""
