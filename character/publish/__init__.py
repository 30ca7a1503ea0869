"""Publishing personas: the registry, exports to the hub, their cards and credits, and the scan for secrets."""
