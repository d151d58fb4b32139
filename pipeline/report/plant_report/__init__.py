"""The plant manager's report: its data, its findings and its page."""
