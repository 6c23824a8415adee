"""Starts commands and watches over them; imports almost nothing."""
