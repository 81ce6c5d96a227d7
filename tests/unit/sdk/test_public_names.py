from __future__ import annotations

import subprocess
import sys

import mrelease

PUBLIC = {
    "AgentError",
    "AsyncClient",
    "AsyncFleet",
    "TLS",
    "Boost",
    "Capability",
    "Cgroup",
    "CgroupMemory",
    "Client",
    "Container",
    "Custom",
    "Feature",
    "Fleet",
    "FleetAnswer",
    "FleetRequest",
    "HeldCause",
    "Member",
    "MemoryPressure",
    "MemorySample",
    "MreleaseError",
    "Node",
    "NodeMemory",
    "NodeRef",
    "NotReleased",
    "Outcome",
    "PassedOver",
    "Pod",
    "PressureGoal",
    "PressureKind",
    "PressureStall",
    "PressureTrigger",
    "Process",
    "ProcessInfo",
    "ProcessList",
    "ProcessMemory",
    "ProcessResult",
    "Proof",
    "QosClass",
    "ReclaimEvent",
    "ReclaimStarted",
    "ReclaimSummary",
    "ReclaimedCandidate",
    "ReleaseProgress",
    "ReleaseResult",
    "Step",
    "Target",
    "TargetKind",
    "Unreleased",
    "UnreleasedCause",
    "Verdict",
    "Wait",
    "WatchedCgroup",
    "errors",
    "trace_context",
    "__version__",
}

ERRORS = {
    "AgentError",
    "AgentLimit",
    "AnswerTooLarge",
    "AuditUnavailable",
    "CertificateRejected",
    "CallerNotPermitted",
    "Cancelled",
    "ConnectionLost",
    "DeadlineExceeded",
    "Denied",
    "FeatureUnavailable",
    "IdentityMismatch",
    "InternalError",
    "InvalidAddress",
    "InvalidTLS",
    "InvalidField",
    "InvalidReference",
    "InvalidRequest",
    "KernelThread",
    "KillLimit",
    "InvalidInventory",
    "MissingExtra",
    "PluginFailed",
    "MreleaseError",
    "NoAgent",
    "NodeMismatch",
    "NotDying",
    "NotPermitted",
    "NotPlaced",
    "NotReleased",
    "OperationNotFound",
    "OrchestratorDenied",
    "OrchestratorUnavailable",
    "OutcomeUnknown",
    "PermissionDenied",
    "ProcessNotFound",
    "Protected",
    "ReapersExhausted",
    "ReferenceAmbiguous",
    "ReferenceNotFound",
    "Refused",
    "RequestIdReused",
    "ResolutionError",
    "ShuttingDown",
    "TargetAmbiguous",
    "TargetKindUnavailable",
    "TargetNotFound",
    "Unauthenticated",
    "Unavailable",
    "UnexpectedStatus",
    "UnknownMethod",
    "Unreachable",
    "WrongTarget",
}

IMPORT = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {others}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Block())
import mrelease
with mrelease.Client("unix:///nowhere") as client:
    pass
import mrelease._status
mrelease._status.decode(())
print(" ".join(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""


def test_the_public_names_are_these() -> None:
    assert set(mrelease.__all__) == PUBLIC
    assert all(hasattr(mrelease, name) for name in PUBLIC)


def test_the_errors_are_these() -> None:
    kinds = {name for name, value in vars(mrelease.errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert kinds == ERRORS


def test_the_drawing_of_the_errors_is_the_tree() -> None:
    drawn: dict[str, str] = {}
    above: list[str] = []
    for line in (mrelease.errors.__doc__ or "").splitlines():
        head, mark, rest = line.partition("-- ")
        name = rest.split()[0] if mark else line.strip()
        if not mark and name != "MreleaseError":
            continue
        depth = (len(head) - 5) // 4 + 1 if mark else 0
        above[depth:] = [name]
        if depth:
            drawn[name] = above[depth - 1]
    real = {name: getattr(mrelease.errors, name).__mro__[1].__name__ for name in ERRORS if name != "MreleaseError"}
    assert drawn == real


def test_the_sdk_needs_grpc_and_protobuf_alone() -> None:
    others = {
        "click",
        "rich",
        "textual",
        "yaml",
        "msgspec",
        "prometheus_client",
        "psutil",
        "grpc_health",
        "grpc_reflection",
        "grpc_tools",
        "matplotlib",
        "mrelease_agent",
    }
    script = IMPORT.format(others=sorted(others))
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"__main__"}
    # typing_extensions is a dependency of grpcio itself; a system may have its own sitecustomize.
    allowed = {"mrelease", "grpc", "google", "typing_extensions", "_upb", "sitecustomize", "cython_runtime", "_cython_3_0_0"}
    assert {name for name in foreign - allowed if not name.startswith(("_cython", "__editable__", "_distutils", "_virtualenv"))} == set()
