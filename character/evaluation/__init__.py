"""How answers are measured: classifiers, judges, ratings and intervals."""
