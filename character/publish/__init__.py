"""Publishing a persona: the registry, exports, their cards and credits."""
