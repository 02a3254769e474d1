"""Whose address is it? The one that limits use, behind the platform's routers.

Rules of this module:

- A router appends the address it saw to X-Forwarded-For, so with n trusted hops the n-th entry
  from the right is the client. Everything left of it the client may have made up.
- Where there are fewer entries than hops, or no address, the peer of the connection counts.
- A household has a whole IPv6 /64, so that stands for its addresses.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network


def client_address(peer: str, forwarded_for: Sequence[str], trusted_hops: int) -> str:
    """The client's address in its canonical form; an IPv6 one as its network.

    Args:
        peer: the other end of the connection.
        forwarded_for: the values of X-Forwarded-For, in their order.
    """
    if trusted_hops and forwarded_for:
        entries = ",".join(forwarded_for).split(",")
        if len(entries) >= trusted_hops:
            return _subject(entries[-trusted_hops].strip()) or _subject(peer) or peer
    return _subject(peer) or peer


@lru_cache(maxsize=4096)
def _subject(text: str) -> str | None:
    if text.count(":") == 1:  # some routers append the port
        text = text.partition(":")[0]
    try:
        address = ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped:
            return str(address.ipv4_mapped)
        return str(ip_network((int(address) >> 64 << 64, 64)))
    return str(address)
