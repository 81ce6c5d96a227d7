"""How a victim is given CPU time, so that it frees itself too: priority, evacuation, lift."""
