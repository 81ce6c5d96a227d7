"""``mrelease top``: where its data come from, how they look, and the full-screen view."""
