#!/usr/bin/env python3
"""Write what is installed as a software bill of materials: CycloneDX 1.6 in JSON, the same bytes for the same files and SOURCE_DATE_EPOCH.

    scripts/sbom.py --out sbom.json                      the distributions of the Python that runs this
    scripts/sbom.py --out sbom.json --python /app/bin/python

Every file is compared with the hash that its wheel gives it (RECORD): a bill that describes something else is not written. Needs nothing
but the standard library and pip or packaging, and no network. Libraries linked into a wheel's modules (gRPC's BoringSSL) are part of that
wheel here.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from packaging.requirements import Requirement
else:
    try:
        from packaging.requirements import Requirement
    except ImportError:  # a venv has it as a part of pip
        from pip._vendor.packaging.requirements import Requirement

ROOT = "mrelease"
#: Asked of the Python that is described, which may be another one than this: where it looks for modules, and what markers compare with.
QUESTION = """
import json, os, platform, sys
version = sys.implementation.version
print(json.dumps({
    "path": [entry for entry in sys.path if entry],
    "markers": {
        "implementation_name": sys.implementation.name, "implementation_version": "%d.%d.%d" % version[:3], "os_name": os.name,
        "platform_machine": platform.machine(), "platform_release": platform.release(), "platform_system": platform.system(),
        "platform_version": platform.version(), "platform_python_implementation": platform.python_implementation(),
        "python_full_version": platform.python_version(), "python_version": "%d.%d" % version[:2], "sys_platform": sys.platform,
    },
}))
"""
#: Files of a distribution's metadata that say how it was installed, not what it is.
HOW_INSTALLED = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"})


class SbomError(Exception):
    """Why there is no bill of materials."""


def bill(path: list[str], markers: Mapping[str, str], timestamp: str, root: str = ROOT) -> dict[str, Any]:
    """Describe the distributions on ``path``, of which ``root`` is the one that the others are there for.

    Raises SbomError where ``root`` is missing, or a file is not what its wheel says that it is.
    """
    found = {name_of(one): one for one in reversed(list(distributions(path=path)))}  # the first on the path is the one that is imported
    if root not in found:
        raise SbomError(f"{root} is not installed there: install it first")
    parts = {name: component(one) for name, one in sorted(found.items())}
    python = interpreter(markers)
    needs = dependencies(found, markers, root)
    needs[root].add(python["name"])
    main = {**parts.pop(root), "type": "application"}
    parts[python["name"]] = python
    reference = {name: part["bom-ref"] for name, part in [*parts.items(), (root, main)]}
    content = {
        "components": [parts[name] for name in sorted(parts)],
        "dependencies": [
            {"ref": reference[name], "dependsOn": [reference[one] for one in sorted(needs.get(name, ()))]} for name in sorted(reference)
        ],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps([main, content], sort_keys=True))
    tools = {"components": [{"type": "application", "name": "scripts/sbom.py of mrelease", "version": main["version"]}]}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"timestamp": timestamp, "tools": tools, "component": main},
        **content,
    }


def name_of(distribution: Distribution) -> str:
    """Name as registries compare it, PEP 503."""
    return normal(distribution.metadata["Name"])


def normal(name: str) -> str:
    """Small letters, and one hyphen for whatever separates the words."""
    return re.sub(r"[-_.]+", "-", name).lower()


def component(distribution: Distribution) -> dict[str, Any]:
    """One distribution: version, package URL, licence, and a hash over the hashes of its files. Raises SbomError."""
    name, version = name_of(distribution), distribution.version
    address = f"pkg:pypi/{name}@{version}"
    files, digest = checked_files(distribution)
    found: dict[str, Any] = {"type": "library", "bom-ref": address, "name": name, "version": version, "purl": address}
    summary = "".join(fields(distribution, "Summary"))
    if summary:
        found["description"] = summary
    licences = licences_of(distribution)
    if licences:
        found["licenses"] = licences
    found["properties"] = [{"name": "mrelease:files", "value": str(files)}, {"name": "mrelease:files:sha256", "value": digest}]
    return found


def checked_files(distribution: Distribution) -> tuple[int, str]:
    """How many files with a hash belong to a distribution, and the SHA-256 over their sorted lines ``path,hash``. Raises SbomError."""
    record = distribution.read_text("RECORD")
    if record is None:
        raise SbomError(f"{name_of(distribution)} has no RECORD of its files: install it with pip, from a wheel")
    lines: list[str] = []
    for file in distribution.files or ():
        # Scripts beside the interpreter carry its path, and pip writes down how it installed: not the same everywhere.
        if file.hash is None or ".." in file.parts or file.name in HOW_INSTALLED:
            continue
        content = Path(str(file.locate())).read_bytes()
        digest = base64.urlsafe_b64encode(hashlib.new(file.hash.mode, content).digest()).rstrip(b"=").decode()
        if digest != file.hash.value:
            raise SbomError(f"{file} of {name_of(distribution)} is not the file that was installed: install it again")
        lines.append(f"{PurePosixPath(file)},{file.hash.mode}={digest}\n")
    return len(lines), hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def licences_of(distribution: Distribution) -> list[dict[str, Any]]:
    """Its licence as CycloneDX has it: an SPDX expression (PEP 639), else the name that it gives, else those of its classifiers."""
    expressions = fields(distribution, "License-Expression")
    if expressions:
        return [{"expression": expressions[0]}]
    names = [text for text in fields(distribution, "License") if "\n" not in text and text != "UNKNOWN"]
    classifiers = [one.rpartition(" :: ")[2] for one in fields(distribution, "Classifier") if one.startswith("License ::")]
    return [{"license": {"name": name}} for name in names or classifiers]


def fields(distribution: Distribution, name: str) -> list[str]:
    """All values of one field of its metadata, without empty ones."""
    found: Iterable[str] = distribution.metadata.get_all(name) or ()
    return [value for value in map(str.strip, found) if value]


def interpreter(markers: Mapping[str, str]) -> dict[str, Any]:
    """The Python that all this runs on."""
    name, version = markers["implementation_name"], markers["python_full_version"]
    address = f"pkg:generic/{name}@{version}"
    return {"type": "platform", "bom-ref": address, "name": name, "version": version, "purl": address}


def dependencies(found: Mapping[str, Distribution], markers: Mapping[str, str], root: str) -> dict[str, set[str]]:
    """Who needs whom, among what is installed.

    An extra of ``root`` counts where all that it asks for is there, that of another one where somebody asks for it.
    """
    needs: dict[str, set[str]] = {name: set() for name in found}
    wanted = [(root, ""), *((root, extra) for extra in installed_extras(found, markers, root))]
    wanted += [(name, "") for name in found if name != root]
    seen: set[tuple[str, str]] = set()
    while wanted:
        name, extra = wanted.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for requirement in requirements(found[name], markers, extra):
            target = normal(requirement.name)
            if target in found:
                needs[name].add(target)
                wanted += [(target, one) for one in requirement.extras]
    return needs


def installed_extras(found: Mapping[str, Distribution], markers: Mapping[str, str], root: str) -> list[str]:
    """Extras of ``root`` for which nothing is missing."""
    extras = fields(found[root], "Provides-Extra")
    return [extra for extra in extras if all(normal(one.name) in found for one in requirements(found[root], markers, extra))]


def requirements(distribution: Distribution, markers: Mapping[str, str], extra: str) -> list[Requirement]:
    """What a distribution asks for here, with one of its extras or with none."""
    environment = {**markers, "extra": extra}
    return [one for one in map(Requirement, distribution.requires or ()) if one.marker is None or one.marker.evaluate(environment)]


def ask(python: str) -> tuple[list[str], dict[str, str]]:
    """Module path and marker values of an interpreter. Raises SbomError where it cannot be run."""
    try:
        # -I: neither this directory nor PYTHONPATH belongs to what is installed.
        done = subprocess.run([python, "-I", "-c", QUESTION], capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SbomError(f"{python} cannot be run: {error}") from None
    answer = json.loads(done.stdout)
    return answer["path"], answer["markers"]


def main() -> int:
    """Write the bill; 1 where there is none to write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="file to write; standard output without it")
    parser.add_argument("--python", default=sys.executable, help="interpreter whose distributions are described")
    options = parser.parse_args()
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        when = datetime.fromtimestamp(int(epoch), timezone.utc) if epoch else datetime.now(timezone.utc)
    except (ValueError, OverflowError, OSError):
        parser.error(f"SOURCE_DATE_EPOCH={epoch} is not a number of seconds")
    try:
        path, markers = ask(options.python)
        found = bill(path, markers, when.strftime("%Y-%m-%dT%H:%M:%SZ"))
    except SbomError as error:
        sys.stderr.write(f"sbom.py: {error}\n")
        return 1
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if options.out:
        Path(options.out).write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
