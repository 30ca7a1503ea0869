"""What every other package builds on: errors, params, models, records."""
