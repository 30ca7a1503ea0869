"""Studies of many personas, recipes, and estimates of their cost."""
