"""Sweeps: one training run at every point of a grid of settings, through ``dask.distributed``, into one dataset."""
