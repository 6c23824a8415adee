"""Streams between services: the QUIC engine, its connections and what they may take."""
