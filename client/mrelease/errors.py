"""Everything that the SDK raises::

    MreleaseError
    |-- InvalidAddress            (also a ValueError) no address that a client can use
    |-- InvalidTLS                (also a ValueError) certificates or a key that a client cannot use
    |-- NotReleased               ReleaseResult.raise_unless_released(): killed, but the memory is not proven back
    |-- ResolutionError           an orchestrator's name leads to no target on a node; nothing was signalled
    |   |-- InvalidReference      (also a ValueError) the name is not one, or no plugin reads it
    |   |-- ReferenceNotFound     the orchestrator knows nothing of this name
    |   |-- ReferenceAmbiguous    it names more than the caller may have meant
    |   |-- NotPlaced             it is on no node: not yet, or not any more
    |   |-- NoAgent               no agent answers for its node
    |   |-- OrchestratorDenied    the orchestrator does not let this caller look, or pass
    |   |-- OrchestratorUnavailable  the orchestrator does not answer
    |   |-- InvalidInventory      (also a ValueError) what says where agents are cannot be used
    |   |-- MissingExtra          the libraries of the plugin are not installed
    |   `-- PluginFailed          the plugin is defective: it raised what it may not raise, or gave what is no answer
    `-- AgentError                a call failed
        |-- InvalidRequest        INVALID_ARGUMENT
        |   |-- InvalidField      a field is missing, out of range or not known to the agent
        |   |-- TargetAmbiguous   the target names more than one container, cgroup or custom target
        |   |-- FeatureUnavailable  the request relies on what the node's kernel cannot do
        |   |-- TargetKindUnavailable  the agent has no plugin for this kind of target, or it failed
        |   |-- RequestIdReused   another request had this request_id
        |   `-- UnknownMethod     UNIMPLEMENTED: the agent is older than this SDK, or no agent
        |-- WrongTarget           NOT_FOUND: what was named is not there
        |   |-- ProcessNotFound   no process has this pid
        |   |-- TargetNotFound    no such container, pod, cgroup or custom target, or no process is in it
        |   |-- OperationNotFound no operation with this request_id runs, and no result of one is kept
        |   |-- IdentityMismatch  another process has this pid now
        |   `-- NodeMismatch      another node, or another boot of it
        |-- Refused               FAILED_PRECONDITION: the agent does not do this to this target
        |   |-- Protected         the agent never kills it
        |   |-- KernelThread      it cannot be killed
        |   |-- NotPermitted      the agent's user may not signal it
        |   `-- NotDying          release() was asked for what is alive
        |-- Denied                this caller may not
        |   |-- Unauthenticated   UNAUTHENTICATED
        |   |   `-- CertificateRejected  the caller's certificate was revoked, or has expired since it connected
        |   `-- PermissionDenied  PERMISSION_DENIED
        |       `-- CallerNotPermitted  the agent's access policy does not let this caller do this, or there is no such target
        |-- Unavailable           not now; nothing was signalled, so the same call may be made again
        |   |-- Unreachable       UNAVAILABLE: no connection to an agent
        |   |-- ShuttingDown      the agent is shutting down
        |   |-- ReapersExhausted  every reaper thread is stuck in the kernel
        |   |-- AgentLimit        the agent's process is at a limit
        |   |-- KillLimit         more would be killed than the agent allows in a window
        |   `-- AuditUnavailable  the agent's audit log cannot be written, so nothing is killed
        `-- OutcomeUnknown        the answer is missing: whether a process was killed is not known
            |-- DeadlineExceeded  DEADLINE_EXCEEDED
            |-- ConnectionLost    UNAVAILABLE after the request was sent
            |-- Cancelled         CANCELLED
            |-- AnswerTooLarge    RESOURCE_EXHAUSTED
            |-- InternalError     INTERNAL: a defect of the agent
            `-- UnexpectedStatus  every other status

The names in capitals are statuses that come without details, as a proxy or gRPC itself makes them. The other classes stand for one
``ErrorReason`` of the contract each. ``nothing_signalled`` says of every error whether the request certainly had no effect.
"""

# ruff: noqa: N818 - the tree reads like the contract: ProcessNotFound is the reason PROCESS_NOT_FOUND

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import grpc

    from mrelease._models import ReleaseResult

_ASK = "release() with the same target tells, and signals nothing; so does list_processes()"


class MreleaseError(Exception):
    """Base of all errors of the SDK."""


class InvalidAddress(MreleaseError, ValueError):
    """The text is no address of an agent, or one that this version does not serve."""


class InvalidTLS(MreleaseError, ValueError):
    """A certificate, key or authority cannot be read, or they do not belong together."""


class NotReleased(MreleaseError):
    """A process was killed, and its memory is not proven back. ``result`` has the proof, the cause and the remedy of each process."""

    def __init__(self, result: ReleaseResult) -> None:
        super().__init__(result)
        self.result = result

    def __str__(self) -> str:
        from mrelease._report import notes

        lines = [line.strip() for line in notes(self.result.processes)]
        return "; ".join([f"the verdict is {self.result.verdict}", *lines])


class ResolutionError(MreleaseError):
    """An orchestrator's name leads to no target on a node. Nothing was signalled. ``remedy``: one sentence on what to do next."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class InvalidReference(ResolutionError, ValueError):
    """The text is no reference, or no plugin that is installed reads it."""


class ReferenceNotFound(ResolutionError):
    """The orchestrator knows nothing of this name, or something else has it now."""


class ReferenceAmbiguous(ResolutionError):
    """The reference names more than the caller may have meant."""


class NotPlaced(ResolutionError):
    """What is named is on no node: not yet, or not any more."""


class NoAgent(ResolutionError):
    """No agent answers for the node."""


class OrchestratorDenied(ResolutionError):
    """The orchestrator does not let this caller look at something, or pass through."""


class OrchestratorUnavailable(ResolutionError):
    """The orchestrator does not answer, or not in time."""


class InvalidInventory(ResolutionError, ValueError):
    """What says where agents are cannot be used: the inventory, or a variable. The message names it, and the field."""


class MissingExtra(ResolutionError):
    """The libraries of the plugin are not installed."""


class PluginFailed(ResolutionError):
    """The plugin is defective; the message names it. What it raised is not in it: that may hold secrets. It is logged at level DEBUG."""


class AgentError(MreleaseError):
    """A call failed.

    ``code`` is the gRPC status, ``reason`` the name of the ``ErrorReason`` (empty where the status came without details), ``metadata`` what
    it names, ``remedy`` one sentence on what to do next, ``retry_after`` when to try again (None: no retry is invited).
    ``nothing_signalled``: True where the call certainly killed nothing, False where that is not known.
    """

    #: What to do next where the agent does not say.
    default_remedy: ClassVar[str] = ""
    #: Whether errors of this class mean that the call had no effect.
    is_harmless: ClassVar[bool] = True

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        reason: str = "",
        metadata: Mapping[str, str] = MappingProxyType({}),
        remedy: str = "",
        retry_after: timedelta | None = None,
        nothing_signalled: bool | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata)
        self.remedy = remedy or self.default_remedy
        self.retry_after = retry_after
        self.nothing_signalled = self.is_harmless if nothing_signalled is None else nothing_signalled

    def __str__(self) -> str:
        # An agent's message may end with its remedy.
        return self.message if self.remedy in self.message else f"{self.message} ({self.remedy})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are pickled by their positional arguments, which these do not have; job runners send them between processes.
        return (_restore, (type(self), self.message), dict(self.__dict__))


def _restore(kind: type[AgentError], message: str) -> AgentError:
    return kind.__new__(kind, message)


class InvalidRequest(AgentError):
    """The agent cannot serve the request as it is. Nothing was signalled."""

    default_remedy = "correct the request"


class InvalidField(InvalidRequest):
    """A field is missing, out of range or not known to this agent; ``metadata["field"]`` is its path."""


class TargetAmbiguous(InvalidRequest):
    """The target names more than one container, cgroup or process; ``metadata`` names ``field``, ``value``, ``candidates``.

    No ``WrongTarget``: who takes that for "already gone" would leave it running.
    """

    default_remedy = "name one of the candidates: a container by all 64 digits of its id, a cgroup by its path"


class FeatureUnavailable(InvalidRequest):
    """The request relies on what this node's kernel cannot do; ``metadata["feature"]``. ``get_node()`` says why."""


class TargetKindUnavailable(InvalidRequest):
    """The agent has no plugin for this kind of ``Custom`` target, or it failed; ``metadata["kind"]``. ``get_node()`` says which work."""


class RequestIdReused(InvalidRequest):
    """Another request had this ``request_id``; ``metadata["request_id"]``."""

    default_remedy = "give every request an id of its own, and repeat a request exactly as it was"


class UnknownMethod(InvalidRequest):
    """The server has no such method."""

    default_remedy = "check that an mrelease agent listens there, and update it to the version of this SDK"


class WrongTarget(AgentError):
    """What was named is not there. Nothing was signalled."""

    default_remedy = "list the processes again: list_processes()"


class ProcessNotFound(WrongTarget):
    """No process has this pid; ``metadata["pid"]``."""


class TargetNotFound(WrongTarget):
    """No such container, pod, cgroup or custom target is on this node, or no process is in it; ``metadata`` names ``field``, ``value``."""


class OperationNotFound(WrongTarget):
    """No operation with this ``request_id`` runs, and no result of one is kept; ``metadata["request_id"]``."""

    default_remedy = "results are kept for the agent's result_ttl; release() with the same target tells what is left"


class IdentityMismatch(WrongTarget):
    """Another process has this pid now; ``metadata`` names ``field``, ``expected``, ``actual``. The one that was meant is gone."""


class NodeMismatch(WrongTarget):
    """The request was meant for another node or another boot; ``metadata`` names ``field``, ``expected``, ``actual``."""

    default_remedy = "find out where the process runs now: get_node() says who answers here"


class Refused(AgentError):
    """The agent does not do this to this target. Nothing was signalled."""

    default_remedy = "choose another target"


class Protected(Refused):
    """The agent never kills this process or group; ``metadata["rule"]`` says by which rule."""


class KernelThread(Refused):
    """A kernel thread: it accepts SIGKILL and ignores it."""


class NotPermitted(Refused):
    """The kernel does not let the agent's user signal this process."""

    default_remedy = "use an agent that runs as root or as the process's user"


class NotDying(Refused):
    """``release()`` was asked for a process that is alive, or for a group of which all are, and it never kills."""

    default_remedy = "use kill_and_release() to kill it"


class Denied(AgentError):
    """This caller may not make this call. Nothing was signalled."""

    default_remedy = "check who is calling and what the agent's node allows"


class Unauthenticated(Denied):
    """The caller did not show who it is."""


class CertificateRejected(Unauthenticated):
    """The caller's certificate was revoked, or has expired since it connected."""

    default_remedy = "connect again with a new certificate"


class PermissionDenied(Denied):
    """The caller is known and may not make this call."""


class CallerNotPermitted(PermissionDenied):
    """The agent's access policy does not let this caller do this to this target, or there is no such target; which, it does not say."""

    default_remedy = "ask who keeps the agent's access policy; `mrelease policy check` explains a decision"


class Unavailable(AgentError):
    """Not now. Nothing was signalled, so the same call may be made again, after ``retry_after`` where it is set."""

    default_remedy = "try again later"


class Unreachable(Unavailable):
    """There was no connection to an agent."""

    default_remedy = "start the agent (mrelease-agent) or name another one (MRELEASE_AGENT)"


class ShuttingDown(Unavailable):
    """The agent is shutting down."""


class ReapersExhausted(Unavailable):
    """Every reaper thread of the agent is stuck in the kernel."""


class AgentLimit(Unavailable):
    """The agent's process is at a limit; ``metadata["limit"]`` names it."""


class KillLimit(Unavailable):
    """More would be killed than the agent allows in a window; ``metadata["scope"]`` says of what: the caller, the node or the target."""


class AuditUnavailable(Unavailable):
    """The agent's audit log cannot be written, so nothing is killed."""


class OutcomeUnknown(AgentError):
    """The answer is missing. Unless the call only read, it is not known whether a process was killed. Do not repeat it blindly."""

    default_remedy = f"whether it was killed is not known: {_ASK}"
    is_harmless = False


class DeadlineExceeded(OutcomeUnknown):
    """No answer by the deadline: the timeout of the request and 5 s. An operation that began runs to its end at the agent."""


class ConnectionLost(OutcomeUnknown):
    """The connection broke while the call was under way. An operation that began runs to its end while its agent lives."""


class Cancelled(OutcomeUnknown):
    """The call was cancelled. An operation that began runs to its end at the agent."""


class AnswerTooLarge(OutcomeUnknown):
    """The answer or the request is larger than gRPC lets through."""


class InternalError(OutcomeUnknown):
    """A defect of the agent; ``metadata["incident"]`` finds the line in its log."""


class UnexpectedStatus(OutcomeUnknown):
    """A status that no agent sends: something between the SDK and the agent made it, or the agent is broken."""
