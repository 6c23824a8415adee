"""Units of work: kept on disk, run by runners, brought to the control service."""
