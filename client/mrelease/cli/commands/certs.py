"""``mrelease certs``: a certificate authority in a directory, so that agents and callers know each other."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mrelease import MreleaseError
from mrelease.cli import output
from mrelease.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from mrelease._certificates import Issued

_directory = click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
_DAYS = click.IntRange(1, 36500)


@click.group()
def certs() -> None:
    """Make certificates for agents and callers, with an authority of your own.

    For development, and for clusters without cert-manager, SPIRE or another authority. Its key is a file in DIRECTORY: whoever reads
    that may have any process killed.
    """


@certs.command()
@_directory
@click.option("--name", default="mrelease CA", show_default=True, help="Name of the authority.")
@click.option("--days", type=_DAYS, default=3650, show_default=True, help="How long it is valid.")
@click.option("--renew", is_flag=True, help="Extend the one that is there: what it has issued stays valid.")
def init(directory: Path, name: str, days: int, renew: bool) -> ExitCode:
    """Make a certificate authority: DIRECTORY/ca.crt and ca.key."""
    with _library():
        from mrelease import _certificates

        _say(_certificates.create_authority(directory, name, days, renew=renew))
    return ExitCode.OK


@certs.command()
@_directory
@click.argument("name")
@click.option("--server", is_flag=True, help="For an agent (tls_cert, tls_key).")
@click.option("--client", is_flag=True, help="For a caller. Without --server this is the default.")
@click.option("--dns", multiple=True, metavar="NAME", help="DNS name of it. Of a server the default is NAME.")
@click.option("--ip", "ips", multiple=True, metavar="ADDRESS", help="IP address of it.")
@click.option("--uri", "uris", multiple=True, metavar="URI", help="URI of it, such as a SPIFFE ID.")
@click.option("--days", type=_DAYS, help="How long it is valid, but not longer than the authority. Default: 90, with --renew as before.")
@click.option("--renew", is_flag=True, help="Replace the one that is there, with a new key, for the same names.")
def issue(
    directory: Path,
    name: str,
    server: bool,
    client: bool,
    dns: tuple[str, ...],
    ips: tuple[str, ...],
    uris: tuple[str, ...],
    days: int | None,
    renew: bool,
) -> ExitCode:
    """Issue a certificate: DIRECTORY/NAME.crt and NAME.key."""
    if renew and (server or client or dns or ips or uris):
        raise click.UsageError("--renew keeps names and uses: to change them, remove the files and issue it anew")
    with _library():
        from mrelease import _certificates

        if renew:
            _say(_certificates.renew(directory, name, days))
        else:
            wanted = _certificates.issue(
                directory, name, server=server, client=client or not server, dns=dns, ips=ips, uris=uris, days=days or 90
            )
            _say(wanted)
    return ExitCode.OK


@certs.command()
@_directory
@click.argument("names", nargs=-1)
@click.option("--days", type=_DAYS, default=30, show_default=True, help="When the list is due again.")
def revoke(directory: Path, names: tuple[str, ...], days: int) -> ExitCode:
    """Revoke certificates: DIRECTORY/ca.crl is the list for agents (tls_crl). Without NAMES it only becomes valid for longer."""
    with _library():
        from mrelease import _certificates

        output.out(f"{_certificates.revoke(directory, names, days)}  due again in {days} days")
    return ExitCode.OK


def _say(issued: Issued) -> None:
    output.out(f"{issued.certificate}  valid until {issued.not_after:%Y-%m-%d %H:%M} UTC")
    output.out(f"{issued.key}  keep it secret")


@contextmanager
def _library() -> Generator[None, None, None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise click.UsageError(f"certificates need {error.name}: pip install 'mrelease[certs]'") from None
    except MreleaseError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from None
