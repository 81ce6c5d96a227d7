"""Who must never be killed."""
