"""The plant manager's report."""
