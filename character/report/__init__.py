"""The report: sections, tables and charts of what a run found."""
