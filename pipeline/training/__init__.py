"""Labelled pictures in, the files of a release out: recipes, network, export, quantisation. Only this needs torch."""
