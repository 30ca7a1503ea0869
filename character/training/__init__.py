"""Training, storing and merging LoRA adapters."""
