"""The command `character`."""
