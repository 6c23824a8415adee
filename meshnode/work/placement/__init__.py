"""Where work goes that may run on any of several nodes."""
