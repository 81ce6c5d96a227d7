"""``slurm://``: jobs and steps of Slurm, through its own commands: nothing but them needs to be installed."""

from mrelease.resolvers.slurm._commands import Commands, Row
from mrelease.resolvers.slurm._reference import JobName
from mrelease.resolvers.slurm._resolver import Slurm

__all__ = ["Commands", "JobName", "Row", "Slurm"]
