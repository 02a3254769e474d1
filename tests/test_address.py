"""Which address limits use, whatever a client writes into X-Forwarded-For."""

import pytest

from guards.address import client_address

PEER = "198.51.100.1"


@pytest.mark.parametrize(
    ("hops", "forwarded", "told"),
    [
        (0, ["203.0.113.7"], PEER),
        (1, [], PEER),
        (1, ["203.0.113.7"], "203.0.113.7"),
        (1, ["6.6.6.6, 203.0.113.7"], "203.0.113.7"),
        (1, ["6.6.6.6", "203.0.113.7"], "203.0.113.7"),
        (2, ["6.6.6.6, 203.0.113.7, 10.0.0.1"], "203.0.113.7"),
        (2, ["203.0.113.7"], PEER),
        (1, ["203.0.113.7, "], PEER),
        (1, ["6.6.6.6, unknown"], PEER),
        (1, ["203.0.113.7:4711"], "203.0.113.7"),
        (1, ["::ffff:203.0.113.7"], "203.0.113.7"),
        (1, ["2001:db8:1:2:3:4:5:6"], "2001:db8:1:2::/64"),
        (1, ["[2001:db8:1:2::9]"], "2001:db8:1:2::/64"),
    ],
)
def test_only_what_trusted_hops_added_is_believed(hops, forwarded, told):
    assert client_address(PEER, forwarded, hops) == told


def test_addresses_of_one_household_are_one():
    one, other = (client_address(f"2001:db8::{n}", [], 0) for n in (1, 2))
    assert one == other != client_address("2001:db8:0:1::1", [], 0)


def test_a_unix_socket_has_no_address():
    assert client_address("", [], 0) == ""
