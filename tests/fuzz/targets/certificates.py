"""Certificates and revocation lists: read, or refused with ValueError, as PEM and as DER."""

from __future__ import annotations

import contextlib

from mrelease_agent.rpc.certificates import from_pem, read_certificate, read_revocation_list


def one_input(data: bytes) -> None:
    """A file; where it is no PEM, DER."""
    for label, read in (("CERTIFICATE", read_certificate), ("X509 CRL", read_revocation_list)):
        blocks = [data]
        with contextlib.suppress(ValueError):
            blocks = from_pem(data, label)
            assert blocks
            assert sum(map(len, blocks)) < len(data)
        for block in blocks:
            with contextlib.suppress(ValueError):
                assert read(block)
