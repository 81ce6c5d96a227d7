"""The audit log: what was asked, by whom, what was done, durable before the first signal, each record chained to the one before."""
