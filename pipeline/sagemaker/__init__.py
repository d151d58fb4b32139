"""Trainings as SageMaker jobs without a container of our own: script mode on a stock PyTorch image.

`bundle` packs sources and lock, `job` writes the requests, `entry` runs in the job, `layout` knows its folders.
"""
