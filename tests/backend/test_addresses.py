"""Addresses stay on this machine or not, and are shown without their secrets."""

from __future__ import annotations

import pytest

from backend.addresses import http_origin, is_loopback, without_password


@pytest.mark.parametrize(
    ("host", "expected"),
    [("localhost", True), ("127.0.0.5", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("box", False)],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_an_address_without_a_secret_is_shown_whole() -> None:
    assert without_password("redis://h:6379/0") == "redis://h:6379/0"
    assert "hush" not in without_password("redis://:hush@h/0")


@pytest.mark.parametrize(
    "address", ["h:80", "ftp://h", "http://", "http://h:0", "http://h:99999", "http://me:pw@h", "http://h?x"]
)
def test_what_is_no_address_of_a_server_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        http_origin(address)
    assert http_origin("http://h:80/prefix/", path=True) == "http://h:80/prefix"
