"""A run's pictures: numbers in, matplotlib figures out; nothing here knows a trainer."""
