"""SIGKILL and power cuts, and what must survive them."""
