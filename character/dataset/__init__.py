"""Constitutions, prompts, recorded answers, and the filters of generated texts."""
