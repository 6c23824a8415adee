"""Sockets, pumps and unix listeners that know nothing of a mesh."""
