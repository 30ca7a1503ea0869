"""Many personas, compared; recipes, and estimates of what they take."""
