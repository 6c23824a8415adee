"""How each kind of unit is run."""
