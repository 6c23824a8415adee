"""meshnode: joins machines into a mesh and runs units of work on them."""

__version__ = "0.1.0"
