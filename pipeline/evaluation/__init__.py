"""How good a model is on labelled pictures, in figures and on a page."""
