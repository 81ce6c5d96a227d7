"""For those who run an orchestrator: installed there once, it gives back the memory of what the orchestrator has killed in vain.

``mrelease.integrations.dask`` for nannies, ``mrelease.integrations.celery`` for workers. They never kill: they ask the agent to release
what is dying already, so that the orchestrator alone decides what ends. Where no agent answers they log a warning, and all is as without
them.
"""
