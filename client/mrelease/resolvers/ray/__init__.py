"""``ray://``: actors, tasks and workers of Ray, through its dashboard: nothing of Ray needs to be installed here."""

from mrelease.resolvers.ray._api import Api
from mrelease.resolvers.ray._reference import RayName
from mrelease.resolvers.ray._resolver import Ray

__all__ = ["Api", "Ray", "RayName"]
