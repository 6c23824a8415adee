"""Peers: one session a link, what peers tell of the mesh, and what dials and accepts."""
