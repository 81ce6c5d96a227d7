"""``kubectl mrelease``, and the same as ``mrelease --kubernetes``: the command line for clusters."""
