"""Adapters: how they are trained, stored and merged."""
