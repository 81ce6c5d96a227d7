"""Killing, releasing and proving: one process, the reaper threads, the errno table, verdicts."""
