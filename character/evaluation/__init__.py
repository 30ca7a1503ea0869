"""Measurement of answers: classifiers, judges, ratings and intervals."""
