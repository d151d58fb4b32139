"""Runs trainings as SageMaker jobs in script mode on a stock PyTorch image.

`bundle` packs sources and lock, `job` writes the requests, `entry` runs in the job, `layout` knows its folders.
"""
