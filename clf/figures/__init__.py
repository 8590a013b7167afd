"""Pictures: pure functions from numbers to matplotlib figures, which know neither a trainer nor torch."""
