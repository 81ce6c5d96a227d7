"""The node agent of mrelease: resolves, kills, releases, proves."""
