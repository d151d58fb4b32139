"""Checks of `kensa doctor`, one module each; `check_table` lists them."""
