"""Data: from files on disk to batches. Listing files needs no torch, so nothing is imported here."""
