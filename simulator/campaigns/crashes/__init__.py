"""kill -9 and power cuts, and what must survive them."""
