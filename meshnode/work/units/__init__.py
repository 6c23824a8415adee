"""What every unit is: its status, files and record, and the requests that act on it."""
