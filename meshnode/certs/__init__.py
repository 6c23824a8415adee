"""Certificates made easy: CAs, requests and certificates, made and shown by ``meshnode``.

Nothing here is imported by a node that runs.
"""
