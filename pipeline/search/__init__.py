"""Which trainings to run, and running them."""
