"""Batches: thousands of submissions that live on the submitting node and have one ID."""
