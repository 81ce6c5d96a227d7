"""The SDK of mrelease."""
