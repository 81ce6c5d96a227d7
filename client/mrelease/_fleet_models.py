"""What a fleet is made of, what is asked of it, and what it answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Generic, TypeAlias, TypeVar

import grpc

from mrelease import errors
from mrelease._models import NodeRef, Target
from mrelease._tls import TLS
from mrelease.resolvers import Agent, Placement

ValueT = TypeVar("ValueT")


@dataclass(frozen=True, slots=True)
class Member:
    """One agent of a fleet.

    ``name``: what people call its node; ``address`` and ``tls`` as of ``Client``, ``tls`` None: the fleet's; ``node``: the node, and the
    boot of it, that must answer there, else nothing is done and the answer is ``NodeMismatch``; ``problem``: why there is no agent, which
    is then the answer to everything.
    """

    name: str
    address: str
    tls: TLS | None = None
    node: NodeRef | None = None
    problem: errors.MreleaseError | None = None


#: What may be given for a member: an address, an ``Agent`` or a ``Placement`` of a resolver, or all of it written out.
MemberLike: TypeAlias = str | Agent | Placement | Member


@dataclass(frozen=True, slots=True)
class FleetRequest:
    """One target on one member.

    ``member``: its name, or one written out; ``target``: what to kill or release there; ``request_id``: the caller's own name for the
    operation, best a UUID; empty: the fleet makes one.
    """

    member: MemberLike
    target: Target
    request_id: str = ""


#: What may be given for a request: written out, a pair of member and target, or a ``Placement``, which is both.
RequestLike: TypeAlias = FleetRequest | tuple[MemberLike, Target] | Placement


@dataclass(frozen=True, slots=True)
class FleetAnswer(Generic[ValueT]):
    """What one member answered, or why it did not.

    ``member``: who was asked; ``result``: the value, or the error of this member alone; ``target``: None where the node itself was asked;
    ``request_id``: of a kill or release, by which ``watch_release`` finds it; ``duration``: from when the member was asked.
    """

    member: Member
    target: Target | None
    result: ValueT | errors.MreleaseError
    request_id: str
    duration: timedelta

    @property
    def error(self) -> errors.MreleaseError | None:
        """Why there is no value; None where there is one."""
        return self.result if isinstance(self.result, errors.MreleaseError) else None

    def value(self) -> ValueT:
        """The value. Raises ``error``."""
        if isinstance(self.result, errors.MreleaseError):
            raise self.result
        return self.result

    def __str__(self) -> str:
        return f"{self.member.name}: {self.result}"


class Members:
    """The members by their names. ``ValueError`` where two have one name: what was meant for one would reach the other."""

    def __init__(self, given: Iterable[MemberLike], tls: TLS | None) -> None:
        self._tls = tls
        self._by_name: dict[str, Member] = {}
        for each in given:
            member = self._read(each)
            known = self._by_name.setdefault(member.name, member)
            if known != member and known.problem is None:
                raise ValueError(f"two members are called {member.name}: at {known.address}, and at {member.address or 'no agent'}")

    @property
    def all(self) -> tuple[Member, ...]:
        """Every one, in the order in which they were given."""
        return tuple(self._by_name.values())

    def find(self, given: MemberLike) -> Member:
        """A member by its name, or one that is written out, known or not. One without an agent where no member has the name."""
        if not isinstance(given, str):
            return self._read(given)
        if given in self._by_name:
            return self._by_name[given]
        return Member(given, "", problem=errors.NoAgent(f"no member of the fleet is called {given}", "name one of its members"))

    def chosen(self, given: Iterable[MemberLike] | None) -> Iterable[Member]:
        """These members; None: all of them."""
        return self.all if given is None else map(self.find, given)

    def request(self, given: RequestLike) -> FleetRequest:
        """A request written out, with its ``Member``."""
        match given:
            case FleetRequest():
                return replace(given, member=self.find(given.member))
            case Placement():
                return FleetRequest(self._read(given), given.target)
            case (member, target):
                return FleetRequest(self.find(member), target)
            case _:
                raise TypeError(f"a request is a pair of member and target, a Placement or a FleetRequest, not {type(given).__name__}")

    def _read(self, given: MemberLike) -> Member:
        match given:
            case Member():
                member = given
            case Placement(node=name, agent=None):
                return Member(name, "", node=given.expected, problem=given.problem or errors.NoAgent(f"there is no agent on node {name}"))
            case Placement(node=name, agent=Agent() as agent):
                member = Member(name, agent.address, agent.tls, given.expected)
            case Agent():
                # What the agent calls its node, where that is known.
                member = Member(given.node or given.address, given.address, given.tls, NodeRef(given.node) if given.node else None)
            case str():
                member = Member(given, given)
            case _:
                raise TypeError(f"a member is an address, an Agent, a Placement or a Member, not {type(given).__name__}")
        # A socket of this machine has no TLS, unless it is a tunnel: then it says so itself.
        if member.tls is None and not member.address.startswith("unix:"):
            member = replace(member, tls=self._tls)
        return member


def check_node(member: Member, found: NodeRef) -> None:
    """Raises NodeMismatch where another node, or another boot of it, has answered than the one that is meant."""
    for name in ("name", "boot_id"):
        expected, actual = getattr(member.node, name, ""), getattr(found, name)
        if expected and expected != actual:
            raise errors.NodeMismatch(
                f"node.{name} is {expected}, the agent at {member.address} is on {actual}",
                code=grpc.StatusCode.FAILED_PRECONDITION,
                reason="NODE_MISMATCH",
                metadata={"field": f"node.{name}", "expected": expected, "actual": actual},
            )
