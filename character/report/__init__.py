"""The report: sections, tables and charts of the results of a run."""
