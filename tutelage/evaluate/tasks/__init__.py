"""Tasks: rows x templates x shots x scorer. Every model is held against the same ones; each is a small file in ``sets``."""
