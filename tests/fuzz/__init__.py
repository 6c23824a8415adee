"""Fuzzing that passes the gate: inputs that are taken in, decoded and acted upon, and nearly right.

Each target feeds one boundary of a node. Whatever it feeds, the node must go on, links and work of
honest nodes must too, and only what the sender itself holds may end.
"""
