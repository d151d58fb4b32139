"""Trains a network and exports it: recipes, network, ONNX export, quantisation.

Labelled images in, the files of a release out. Only this package needs torch.
"""
