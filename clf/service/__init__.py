"""The HTTP service around an exported model; needs the extra ``serve``, and no torch."""
