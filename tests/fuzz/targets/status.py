"""Details of a failed call from who may be no agent: none, or some that make an exception with a delay that can be waited for."""

from __future__ import annotations

import grpc

from mrelease import MreleaseError, _address, _failure, _status

ADDRESS = _address.parse("unix:///run/agent.sock", {})
CODES = tuple(grpc.StatusCode)


def one_input(data: bytes) -> None:
    """The first byte is the code of the call, the others the trailer."""
    code = CODES[data[0] % len(CODES)] if data else grpc.StatusCode.UNKNOWN
    trailers = ((_status.TRAILER, data[1:]),)
    details = _status.decode(trailers)
    error = _failure.to_error(_failure.Failure(code, "no", trailers), ADDRESS, signals=True)
    assert isinstance(error, MreleaseError)
    assert str(error)
    if details is not None and details.retry_after is not None:
        assert 0 <= details.retry_after <= _status.MOST_SECONDS
    if details is not None and details.domain == _status.DOMAIN:
        again = _status.decode(((_status.TRAILER, _status.encode(code, "no", details)),))
        assert again is not None
        assert (again.reason, again.metadata) == (details.reason, details.metadata)
