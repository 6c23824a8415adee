"""The routes below /api/v1: each module has ``routes(node)``, and ``app.py`` lists the modules."""
