"""Talking with personas: in the terminal, and through a server."""
