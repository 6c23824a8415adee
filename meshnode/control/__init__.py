"""The control service: sessions, commands and the listeners they arrive by."""
