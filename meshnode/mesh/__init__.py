"""Drives the protocol over real links: the mesh, usable by itself."""
