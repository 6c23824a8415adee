"""Kinds of link: one small interface, one registry."""
