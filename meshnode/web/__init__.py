"""The HTTP face of the registered commands: imported only where an http-service directive is."""
