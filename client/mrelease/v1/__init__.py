"""Generated from proto/mrelease/v1 by scripts/generate: do not edit."""
