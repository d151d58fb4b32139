"""`kensa doctor`: the command and its checks."""
