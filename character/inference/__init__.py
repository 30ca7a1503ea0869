"""Inference: engines, their caches, and the sampling of replies."""
