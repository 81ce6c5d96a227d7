"""What lies in the Debian package: the agent, the CLI and the libraries that they need, as a virtual environment of Debian's own Python.

One package serves several versions of Python, and so several releases of Debian: libraries with machine code are there once for each
version, under names that tell them apart; everything else is there once. `lib/python3.11` and the others are links to one directory.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import zipfile
from collections.abc import Iterable
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath
from typing import Final

HOME: Final = "usr/lib/mrelease"
SITE: Final = f"{HOME}/lib/python3/site-packages"
#: The administrator's own resolvers and targets: `pip install --no-deps --target` puts them there.
PLUGINS: Final = "/usr/local/lib/mrelease"
#: What a program does not need: types and sources of machine code.
_NOT_NEEDED: Final = {".pyi", ".pyx", ".pxd", ".pxi", ".c", ".h", ".cpp"}
#: Of a library's metadata, what importlib.metadata reads; licences are in the package's copyright file.
_METADATA: Final = {"METADATA", "entry_points.txt"}
#: What makers put beside their modules for readers of the source; the licences are in the package's copyright file.
_FOR_READERS: Final = {"LICENSE", "README.md"}
#: The controller is a Deployment of the chart: its library is not in the package.
_NOT_COMMANDS: Final = {"mrelease-controller"}
_VENV: Final = """home = /usr/bin
include-system-site-packages = false
"""
_COMMAND: Final = """#!/{home}/bin/python3 -I
import sys

from {module} import {function}

sys.exit({function}())
"""
_COPYRIGHT: Final = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: mrelease
Comment: Libraries under /{site} are the wheels that their makers published, without debugging symbols.

Files: *
Copyright: 2026 The mrelease authors
License: Apache-2.0
"""
#: On every Debian system; so it is named and not quoted.
_SAID: Final = "On Debian systems the text of the license is in /usr/share/common-licenses/Apache-2.0."
_APACHE: Final = f"""License: Apache-2.0
 {_SAID}
"""
_APACHE_TEXT: Final = re.compile(r"Apache License\s+Version 2\.0, January 2004.*?limitations under the License\.", re.DOTALL)


class TreeError(Exception):
    """The package cannot be laid out; str() says why."""


def lay_out(root: Path, wheels: Iterable[Path], pythons: Iterable[str]) -> None:
    """Write the virtual environment and its commands below ``root``. Raises TreeError where wheels contradict each other."""
    site = root / SITE
    site.mkdir(parents=True)
    for wheel in wheels:
        _unpack(wheel, site)
    (site / "local.pth").write_text(f"{PLUGINS}\n")
    home = root / HOME
    (home / "pyvenv.cfg").write_text(_VENV)
    (home / "bin").mkdir()
    (home / "bin" / "python3").symlink_to("../../../bin/python3")
    for python in pythons:
        (home / "lib" / f"python{python}").symlink_to("python3")
    _write_commands(root, site)


def _unpack(wheel: Path, site: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            path = PurePosixPath(name)
            if name.endswith("/") or path.suffix in _NOT_NEEDED or path.name in _FOR_READERS:
                continue
            if path.parts[0].endswith(".data") or ".." in path.parts or path.is_absolute():
                raise TreeError(f"{wheel.name}: {name} has no place in the package")
            if path.parts[0].endswith(".dist-info") and (len(path.parts) > 2 or path.name not in _METADATA):
                continue
            content, place = _without_interpreter(path, archive.read(name)), site / path
            if place.exists() and place.read_bytes() != content:
                raise TreeError(f"{wheel.name}: {name} is another one for another Python")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
            place.chmod(0o644)


def _without_interpreter(path: PurePosixPath, content: bytes) -> bytes:
    """A module is imported and not run: its first line must not name an interpreter that this system may lack. Line numbers stay."""
    if path.suffix == ".py" and content.startswith(b"#!"):
        return b"#" + content[content.index(b"\n") :]
    return content


def _write_commands(root: Path, site: Path) -> None:
    (metadata,) = site.glob("mrelease-*.dist-info")
    entries = configparser.ConfigParser(delimiters="=")
    entries.optionxform = str  # type: ignore[method-assign,assignment]  # names of commands keep their case
    entries.read(metadata / "entry_points.txt")
    (root / "usr/bin").mkdir(parents=True)
    for name, entry in entries["console_scripts"].items():
        if name not in _NOT_COMMANDS:
            module, _, function = entry.partition(":")
            command = root / "usr/bin" / name
            command.write_text(_COMMAND.format(home=HOME, module=module, function=function))
            command.chmod(0o755)


def copyright_of(wheels: Iterable[Path]) -> str:
    """The package's copyright file, in Debian's format: a stanza for each library, with the licence that its wheel brings."""
    by_name = {wheel.name.split("-")[0].lower(): wheel for wheel in wheels}
    stanzas = [_stanza(wheel) for name, wheel in sorted(by_name.items()) if name != "mrelease"]
    return "\n".join([_COPYRIGHT.format(site=SITE), *stanzas, _APACHE])


def _stanza(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        names = sorted(archive.namelist())
        info = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(info).decode())
        texts = [_APACHE_TEXT.sub(_SAID, archive.read(name).decode()) for name in dict.fromkeys(names) if _is_license(name)]
        tops = sorted({PurePosixPath(name).parts[0] for name in names if ".dist-info/" not in name})
    if not texts and not _declares_apache(metadata["License"], metadata["License-Expression"]):
        raise TreeError(f"{wheel.name} has no licence in it: look for it, and say here what it is")
    owners = _owners(texts) or [metadata["Author"] or metadata["Author-email"] or f"The {metadata['Name']} authors"]
    files = "\n ".join(f"{SITE}/{top}{'' if '.' in top else '/*'}" for top in tops)
    lines = [f"Files:\n {files}", "Copyright: " + "\n ".join(owners)]
    ours = [text for text in texts if text.strip() and text.strip() != _SAID]
    label = f"{metadata['Name']}-license" if ours else "Apache-2.0"
    lines.append(f"License: {label}")
    if ours:
        lines += _quoted("\n\n".join(dict.fromkeys(ours)))
    return "\n".join(lines) + "\n"


def _is_license(name: str) -> bool:
    path = PurePosixPath(name)
    return path.name.upper().startswith(("LICENSE", "LICENCE", "COPYING", "NOTICE"))


def _declares_apache(*declared: str | None) -> bool:
    return any("apache" in value.lower() for value in declared if value)


def _owners(texts: Iterable[str]) -> list[str]:
    lines = [line.strip(" *#-\t") for text in texts for line in text.splitlines()]
    claims = [line for line in lines if line.lower().startswith(("copyright (c)", "copyright ©", "copyright 2"))]
    return list(dict.fromkeys(line.split("opyright", 1)[1].strip(" :") for line in claims))


def _quoted(text: str) -> list[str]:
    return [f" {line.rstrip()}" if line.strip() else " ." for line in text.strip().splitlines()]


def set_times(root: Path, epoch: int) -> None:
    """Give every file and directory below ``root`` the same time, seconds since 1970: dpkg-deb only lowers what is later."""
    for directory, _, names in os.walk(root):
        for name in [directory, *(f"{directory}/{name}" for name in names)]:
            os.utime(name, (epoch, epoch), follow_symlinks=False)
            if not Path(name).is_symlink() and Path(name).is_dir():
                Path(name).chmod(0o755)


def install(source: Path, place: Path, mode: int = 0o644) -> None:
    """Copy one file to ``place`` with ``mode``, making directories."""
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)
    place.chmod(mode)
