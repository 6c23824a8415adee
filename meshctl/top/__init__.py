"""``meshctl top``: a node's work and mesh on a terminal, live."""
