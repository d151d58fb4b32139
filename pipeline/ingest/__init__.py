"""Converts messages of the lines to table rows, in Firehose or in a folder."""
