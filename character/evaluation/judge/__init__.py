"""Judges: which of two labels fits a text, and how often a judge is right."""
