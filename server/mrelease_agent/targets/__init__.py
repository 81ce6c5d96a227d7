"""From what a caller names to process references."""
