"""Floods: what an enemy sends as fast as it can, and what honest nodes notice of it."""
