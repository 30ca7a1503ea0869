"""What every other package uses: errors, params, models and records."""
