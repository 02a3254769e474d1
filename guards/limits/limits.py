"""Limits and quotas: reserve before the call, settle once after it.

    count     one request, before its body is read, so that an invalid one counts, too
    reserve   a place in flight, prompt tokens + longest answer, and their price
    settle    gives back, or takes more, until what was charged is what was used

Rules of this module:

- A call is held against its caller (unless anonymous), its address and the whole server, all
  at once: one refusal, and nothing is taken anywhere.
- A limit of this minute, or of the calls in flight, is `rate_limited`; one of the day is
  `quota_exceeded`. The standing of caller and address is told in the RateLimit headers
  (draft-ietf-httpapi-ratelimit-headers); that of the whole server is nobody's business.
- Where no answer limit is sent, [openai] max_tokens_reserved stands for the longest answer. A
  call in flight may then use more, at most what its model gives, and the next ones pay for it.
- Dollars are counted for models whose price is known.
- With Redis down, `fail_open` counts in this process alone; otherwise the call is refused.
"""

import itertools
import math
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Final, NamedTuple

from call import ANONYMOUS, Call
from config import Config, LimitConfig
from errors import CallError
from guards.limits.counters import (
    DAY_S,
    MINUTE_S,
    Charge,
    Count,
    Counters,
    Limit,
    MemoryCounters,
    RedisCounters,
)
from prices import Prices
from store.redis import Store, StoreDown

_WINDOW_S: Final = {
    "requests_per_minute": MINUTE_S,
    "tokens_per_minute": MINUTE_S,
    "tokens_per_day": DAY_S,
    "usd_per_day": DAY_S,
    "in_flight": 0,
}
_MICRO_USD: Final = 1_000_000
_WHOSE: Final = {"caller": "of one caller", "ip": "from one address"}
_UNITS: Final = {
    "requests_per_minute": ("request", "a minute"),
    "tokens_per_minute": ("token", "a minute"),
    "tokens_per_day": ("token", "a day"),
    "in_flight": ("call", "at a time"),
}


class LimitUse(NamedTuple):
    """How far one limit is used."""

    name: str
    used: float
    maximum: float


Standing = list[tuple[Charge, Count]]
Room = list[tuple[Limit, float]]
"""What is left of each limit."""


@dataclass(slots=True)
class Reservation:
    """What one call has taken, at which second since the epoch, under which name, from where."""

    charges: list[Charge]
    at: float
    lease: str
    counters: Counters


class Limits:
    """The limits of this server.

    Args:
        clock: seconds since the epoch: windows begin at the same instant in every process.
        prices: of all models.
    """

    def __init__(
        self,
        config: Config,
        store: Store | None,
        *,
        clock: Callable[[], float],
        prices: Prices,
    ) -> None:
        self._clock = clock
        self._prices = prices
        self._memory = MemoryCounters()
        self._shared = RedisCounters(store, _lease_s(config)) if store else None
        self._fail_open = store is None or store.fail_open
        self._process = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._rooms: dict[Call, Room] = {}
        self._reservations: dict[Call, Reservation] = {}
        self.configure(config)

    def configure(self, config: Config) -> None:
        """The limits from now on. What was counted, and is reserved, stays."""
        self._caller_limits = config.limit_caller
        self._ip = limits_of("ip", config.limit_ip)
        self._total = limits_of("total", config.limit_total)
        if self._shared:
            self._shared.lease_s = _lease_s(config)

    async def count(self, call: Call, *, known: bool = True) -> None:
        """Count the request of this call, or refuse it.

        Args:
            known: whether its sender was let in. Who was not is held against its address alone:
                strangers must not use up what the server has for everybody.

        Raises:
            CallError: `rate_limited` with the wait, `overloaded` as for `reserve`.
        """
        subjects = self._subjects(call) if known else [(self._ip, call.address)]
        if charges := _charges(subjects, {"requests_per_minute": 1}):
            await self._take(call, charges)

    async def reserve(self, call: Call, *, costs: bool = True) -> None:
        """Take the most that this call may use, as far as that is known, or refuse it.

        Args:
            costs: whether a provider will be asked; without, it takes a place alone.

        Raises:
            CallError: `rate_limited` or `quota_exceeded` with the wait, `prompt_too_long` where
                waiting will not help, `overloaded` where calls must not pass uncounted.
        """
        longest = call.reserved_answer_tokens if costs else 0
        price = self._prices.of(call)
        usd = price.usd(call.prompt_tokens, longest) if price else 0.0
        amounts = _amounts(call.prompt_tokens + longest, usd, in_flight=1)
        charges = _charges(self._subjects(call), amounts)
        self._reservations[call] = await self._take(call, charges)

    async def _take(self, call: Call, charges: list[Charge]) -> Reservation:
        """Make these charges, and set the headers that say how the caller stands then."""
        # Not the request's id: a client may choose that, and choose the same twice.
        now, lease = self._clock(), f"{self._process}-{next(self._numbers)}"
        counters: Counters = self._shared or self._memory
        try:
            taken = await counters.take(charges, now, lease)
        except StoreDown:
            if not self._fail_open:
                raise
            counters = self._memory
            taken = await counters.take(charges, now, lease)
        standing = list(zip(charges, taken.counts, strict=True))
        room = self._rooms.setdefault(call, [])
        room += _room(standing, now, taken.granted)
        call.reply_headers |= _headers(room, now)
        if not taken.granted:
            raise _refusal(standing, now)
        return Reservation(charges, now, lease, counters)

    def settle(self, call: Call) -> None:
        """Charge what was used instead of what was reserved. Only the first time counts."""
        self._rooms.pop(call, None)
        self.release(call)

    def release(self, call: Call) -> None:
        """The same for a call that goes on, and may reserve again."""
        reservation = self._reservations.pop(call, None)
        if reservation is None:
            return
        tokens, usd = sum(call.charged_tokens()), self._prices.usd(call) or 0.0
        used = _amounts(tokens, usd, in_flight=0)
        reservation.counters.correct(
            [
                Charge(limit, key, used[limit.name] - amount)
                for limit, key, amount in reservation.charges
            ],
            reservation.at,
            reservation.lease,
        )

    def server_usage(self) -> list[LimitUse]:
        """How far the limits of the whole server are used; empty where Redis counts."""
        if self._shared:
            return []
        now, uses = self._clock(), []
        for limit in self._total:
            scale = _MICRO_USD if limit.name == "usd_per_day" else 1
            used = limit.used(self._memory.count(limit, _key(limit, "all"), now), now)
            uses.append(LimitUse(_title(limit), used / scale, limit.maximum / scale))
        return uses

    async def aclose(self) -> None:
        """Wait for corrections on their way to Redis."""
        if self._shared:
            await self._shared.aclose()

    def _subjects(self, call: Call) -> list[tuple[tuple[Limit, ...], str]]:
        subjects = [(self._ip, call.address), (self._total, "all")]
        if call.caller is not ANONYMOUS:
            own = limits_of("caller", call.caller.limits or self._caller_limits)
            subjects.append((own, call.caller.name))
        return subjects


def _charges(
    subjects: Iterable[tuple[tuple[Limit, ...], str]], amounts: Mapping[str, int]
) -> list[Charge]:
    return [
        Charge(limit, _key(limit, subject), amounts[limit.name])
        for limits, subject in subjects
        for limit in limits
        if limit.name in amounts
    ]


def _amounts(tokens: int, usd: float, *, in_flight: int) -> dict[str, int]:
    return {
        "tokens_per_minute": tokens,
        "tokens_per_day": tokens,
        "usd_per_day": math.ceil(usd * _MICRO_USD),
        "in_flight": in_flight,
    }


def _lease_s(config: Config) -> float:
    """No call lasts longer than this, and a place in flight is not held longer either."""
    return config.provider.deadline_s + config.provider.stream_s


@lru_cache(maxsize=1024)
def limits_of(scope: str, config: LimitConfig) -> tuple[Limit, ...]:
    """The limits that are set, dollars in millionths."""
    limits = []
    for name, window_s in _WINDOW_S.items():
        if maximum := getattr(config, name):
            scale = _MICRO_USD if name == "usd_per_day" else 1
            limits.append(Limit(scope, name, int(maximum * scale), window_s))
    return tuple(limits)


def _room(standing: Standing, now: float, granted: bool) -> Room:
    """What is left of the limits that the caller may know."""
    return [
        (limit, limit.maximum - limit.used(count, now) - amount * granted)
        for (limit, _, amount), count in standing
        if limit.scope != "total" and limit.name.startswith(("requests", "tokens"))
    ]


def _headers(room: Room, now: float) -> dict[str, str]:
    """The policies of caller and address, and how the one stands that is nearest to its end."""
    if not room:
        return {}
    scarcest, left = min(room, key=lambda each: each[1] / each[0].maximum)
    reset_s = math.ceil(scarcest.window_s - now % scarcest.window_s)
    return {
        "RateLimit-Policy": _policy(tuple(limit for limit, _ in room)),
        "RateLimit": f'"{_title(scarcest)}";r={max(0, int(left))};t={reset_s}',
    }


@lru_cache(maxsize=1024)
def _policy(limits: tuple[Limit, ...]) -> str:
    return ", ".join(f'"{_title(limit)}";q={limit.maximum};w={limit.window_s}' for limit in limits)


def _key(limit: Limit, subject: str) -> str:
    return f"{limit.scope}:{limit.name}:{subject}"


@lru_cache(maxsize=1024)
def _title(limit: Limit) -> str:
    return f"{limit.scope}-{limit.name}".replace("_", "-")


def _refusal(standing: Standing, now: float) -> CallError:
    """Why the call must wait: the limit that makes it wait longest."""
    wait_s, charge = max(
        (
            (charge.limit.wait_s(count, charge.amount, now), charge)
            for charge, count in standing
            if charge.limit.used(count, now) + charge.amount > charge.limit.maximum
        ),
        key=itemgetter(0),
    )
    limit = charge.limit
    code = "quota_exceeded" if limit.window_s == DAY_S else "rate_limited"
    if limit.scope == "total":
        return CallError(code, _title(limit), retry_after_s=wait_s)
    whose = _WHOSE[limit.scope]
    if limit.name == "usd_per_day":
        text = f"The dollars a day {whose} are used up"
        return CallError(code, _title(limit), text=text, retry_after_s=wait_s)
    noun, span = _UNITS[limit.name]
    allowed = f"{limit.maximum} {noun}{'s' if limit.maximum > 1 else ''} {span} {whose}"
    if limit.name.startswith("tokens") and charge.amount > limit.maximum:
        text = f"Prompt and longest answer need {charge.amount} tokens; the limit is {allowed}"
        return CallError("prompt_too_long", _title(limit), text=text)
    text = f"The limit is {allowed}"
    return CallError(code, _title(limit), text=text, retry_after_s=wait_s)
