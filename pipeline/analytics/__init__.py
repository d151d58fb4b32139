"""Queries on the verdicts, in one SQL text for Athena and for DuckDB on a laptop."""
