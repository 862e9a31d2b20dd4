"""Posteriors and evidence to judge guides by."""
