"""Judging the judges: the questions that are asked of the verdicts, in one SQL for Athena and for a laptop."""
