"""How models are run: engines, their caches, and the sampling of replies."""
