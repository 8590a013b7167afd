"""Callbacks, one file a subject: when to compute and where to write, nothing else."""
