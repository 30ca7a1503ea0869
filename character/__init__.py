"""Character training: what two or more stages of the pipeline share."""
