"""The command line ``mrelease``. Its libraries, click and rich, are the extra ``cli``; nothing of the SDK imports this package."""
