"""From messages to tables: what the line sends becomes flat rows, in Firehose or in a folder."""
