"""The rolling window and the list of recent calls: what they count, and what they let go of."""

import math
import random
from dataclasses import dataclass

import pytest

from call import Attempt, Call, Caller
from config import Target
from errors import OUTCOMES, CallError
from telemetry.call_result import AttemptFacts, CallFacts, CallResult
from telemetry.recent import KEPT, RecentCall, RecentCalls
from telemetry.tally import Percentiles, Tally, Times
from telemetry.window import MAX_CALLERS, NANO_USD, OTHERS, SLOT_S, Window

DEFAULT = Target("default", "gpt-4o-mini-2024")


@dataclass
class Time:
    """Both clocks; at first noon of some day, by the wall clock."""

    now: float = 1000.0

    def __call__(self):
        return self.now

    def wall(self):
        return 20_000 * 86_400 + 12 * 3600 + self.now - 1000


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def window(time):
    return Window(clock=time, wall_clock=time.wall)


def settled(
    time,
    code="completed",
    *,
    reason=None,
    caller="alice",
    model="gpt-4o-mini",
    latency_s=1.0,
    first_token_s=None,
    reasons=(None,),
    tokens=(10, 5),
    usd=0.000_000_7,
    **more,
):
    call = Call("id-1", "/api/chat", time.now - latency_s, time.now + 1, **more)
    call.caller, call.model, call.code = Caller(caller), model, code
    for number, why in enumerate(reasons):
        began = call.started + 0.1 * number
        call.timeline.append(Attempt(DEFAULT, began, began + 0.05, why))
    if first_token_s is not None:
        call.stream, call.first_token_at = True, call.started + first_token_s
    return CallResult(
        call=call,
        error=None if code == "completed" else CallError(code, reason),
        ended_at=time.now,
        charged_prompt_tokens=tokens[0],
        charged_answer_tokens=tokens[1],
        counted_by="provider" if sum(tokens) else None,
        cost_usd=usd,
    )


def refused(time, code, reason=None, **more):
    return settled(time, code, reason=reason, reasons=(), tokens=(0, 0), usd=None, **more)


def spans_with(window, kind, name, what="calls"):
    """The count in each span."""
    return [tally.of(kind, name, what) for tally in window.snapshot().spans.values()]


def test_an_empty_window_has_nothing_to_say(window):
    snapshot = window.snapshot()
    assert (snapshot.calls_per_s, snapshot.points) == (0, [])
    assert list(snapshot.spans) == ["quarter", "hour", "day"]
    for tally in snapshot.spans.values():
        assert tally == Tally()
        assert tally.latency.percentiles() == Percentiles(0, None, None, None)


def test_a_call_counts_in_all_spans_at_once_and_leaves_each_in_its_time(window, time):
    window.add(settled(time))
    assert spans_with(window, "code", "completed") == [1, 1, 1]
    for minutes, left in ((14, [1, 1, 1]), (16, [0, 1, 1]), (59, [0, 1, 1]), (61, [0, 0, 1])):
        time.now = 1000 + minutes * 60
        assert spans_with(window, "code", "completed") == left, minutes
    time.now = 1000 + 12 * 3600 - 1
    assert spans_with(window, "code", "completed") == [0, 0, 1]
    time.now += 1 + SLOT_S
    assert spans_with(window, "code", "completed") == [0, 0, 0]


def test_what_has_left_leaves_nothing_behind(window, time):
    chance = random.Random(7)
    for _ in range(500):
        code, time.now = chance.choice(list(OUTCOMES)), time.now + chance.random() * 60
        window.add(settled(time, code, latency_s=chance.random() * 9, redactions={"email": 2}))
    time.now += 3601
    snapshot = window.snapshot()
    assert (snapshot.spans["quarter"], snapshot.spans["hour"]) == (Tally(), Tally())
    assert snapshot.points == []


def test_the_spans_hold_what_was_added_lately(window, time):
    """Against a list that forgets nothing."""
    chance, added = random.Random(7), []
    for _ in range(3000):
        time.now += chance.random() * 6
        window.add(settled(time, tokens=(chance.randrange(1000), 1)))
        added.append(int(time.now // SLOT_S))
    number = window.snapshot().number
    for span, slots in (("quarter", 60), ("hour", 240)):
        expected = sum(slot > number - slots for slot in added)
        assert window.snapshot().spans[span].of("code", "completed") == expected


def test_calls_are_counted_by_what_they_were(window, time):
    window.add(settled(time, reasons=("status_503", None), redactions={"email": 2, "card": 1}))
    window.add(refused(time, "rate_limited", "ip-requests-per-minute"))
    window.add(refused(time, "prompt_too_long", "caller-tokens-per-minute"))
    window.add(refused(time, "prompt_too_long"))
    window.add(refused(time, "unauthenticated", "missing", caller="anonymous", model=""))
    window.add(settled(time, "provider_unavailable", reasons=("status_500",) * 3, tokens=(0, 0)))
    hour = window.snapshot().spans["hour"]
    assert sorted(hour.all_of("code")) == [
        ("completed", "calls", 1),
        ("prompt_too_long", "calls", 2),
        ("provider_unavailable", "calls", 1),
        ("rate_limited", "calls", 1),
        ("unauthenticated", "calls", 1),
    ]
    assert hour.all_of("class") == [
        ("completed", "calls", 1),
        ("client_errors", "calls", 4),
        ("server_errors", "calls", 1),
    ]
    assert hour.all_of("route") == [("/api/chat", "calls", 6)]
    assert hour.of("model", "") == 0
    assert (hour.of("model", "gpt-4o-mini"), hour.of("caller", "anonymous")) == (5, 1)
    assert hour.of("model", "gpt-4o-mini", "server_errors") == 1
    assert hour.all_of("attempt") == [("first", "calls", 2), ("retry", "calls", 3)]
    assert sorted(hour.all_of("fault")) == [
        ("default", "status_500", 3),
        ("default", "status_503", 1),
    ]
    assert hour.all_of("redaction") == [("email", "values", 2), ("card", "values", 1)]
    assert hour.all_of("limit") == [
        ("ip-requests-per-minute", "calls", 1),
        ("caller-tokens-per-minute", "calls", 1),
    ]


def test_tokens_and_cost_are_those_of_caller_and_model(window, time):
    window.add(settled(time, usd=0.000_000_123))
    window.add(settled(time, usd=0.25, caller="bob", tokens=(100, 50)))
    window.add(settled(time, usd=None))
    window.add(refused(time, "rate_limited", "total-usd-per-day"))
    hour = window.snapshot().spans["hour"]
    counted = {(name, what): n for name, what, n in hour.all_of("caller")}
    assert counted == {
        ("alice", "calls"): 3,
        ("alice", "prompt_tokens"): 20,
        ("alice", "answer_tokens"): 10,
        ("alice", "nano_usd"): 123,
        ("alice", "unpriced"): 1,
        ("bob", "calls"): 1,
        ("bob", "prompt_tokens"): 100,
        ("bob", "answer_tokens"): 50,
        ("bob", "nano_usd"): NANO_USD // 4,
    }
    assert hour.of("model", "gpt-4o-mini", "nano_usd") == 123 + NANO_USD // 4


def test_callers_beyond_the_cap_share_a_name_until_midnight(window, time):
    for number in range(MAX_CALLERS + 5):
        window.add(settled(time, caller=f"caller-{number}"))
    window.add(settled(time, caller="caller-0"))
    hour = window.snapshot().spans["hour"]
    names = {name for name, _, _ in hour.all_of("caller")}
    assert len(names) == MAX_CALLERS + 1
    assert hour.of("caller", OTHERS) == 5
    assert hour.of("caller", "caller-0") == 2
    time.now += 12 * 3600
    window.add(settled(time, caller="late"))
    assert spans_with(window, "caller", "late") == [1, 1, 1]


def test_those_of_the_last_hour_keep_their_name_past_midnight(window, time):
    time.now += 12 * 3600 - 60
    window.add(settled(time, caller="night-owl"))
    time.now += 120
    assert spans_with(window, "caller", "night-owl") == [1, 1, 0]
    for number in range(MAX_CALLERS):
        window.add(settled(time, caller=f"caller-{number}"))
    window.add(settled(time, caller="night-owl"))
    assert spans_with(window, "caller", "night-owl") == [2, 2, 1]


def test_the_day_turns_with_no_call_to_turn_it(window, time):
    window.add(settled(time))
    time.now += 13 * 3600
    assert spans_with(window, "code", "completed") == [0, 0, 0]


def test_the_rate_is_that_of_the_last_minute(window, time):
    time.now += 600
    for _ in range(110):
        window.add(settled(time))
        time.now += 0.5
    assert window.snapshot().calls_per_s == pytest.approx(2, rel=0.1)
    time.now += 60
    assert window.snapshot().calls_per_s == 0


def test_the_rate_of_the_first_seconds_is_not_spread_over_a_minute(window, time):
    time.now += 5
    for _ in range(10):
        window.add(settled(time))
    assert window.snapshot().calls_per_s == pytest.approx(2)


def test_a_chart_has_a_point_for_each_slot_with_calls(window, time):
    window.add(settled(time, latency_s=0.2))
    window.add(refused(time, "rate_limited"))
    time.now += 40
    window.add(settled(time, "deadline_exceeded", latency_s=28))
    snapshot = window.snapshot()
    assert [point[:4] for point in snapshot.points] == [(66, 1, 1, 0), (69, 0, 0, 1)]
    assert snapshot.number == 69
    first, last = (point.latency for point in snapshot.points)
    assert (first.measured, last.measured) == (1, 1)
    assert first.p50 == pytest.approx(0.2, rel=0.045)
    assert last.p99 == pytest.approx(28, rel=0.045)


def test_latency_is_that_of_calls_which_the_provider_had(window, time):
    window.add(settled(time, latency_s=0.5))
    window.add(settled(time, "provider_unavailable", latency_s=2))
    for unsaid in (
        refused(time, "rate_limited"),
        refused(time, "circuit_open"),
        settled(time, "client_gone", latency_s=0.01),
        settled(time, reasons=(), replayed=True, latency_s=0.01),
    ):
        window.add(unsaid)
    assert window.snapshot().spans["hour"].latency.percentiles().measured == 2


def test_the_first_token_is_timed_for_streams(window, time):
    window.add(settled(time, first_token_s=0.3, latency_s=4))
    window.add(settled(time))
    window.add(settled(time, "client_gone", first_token_s=9, latency_s=10))
    window.add(settled(time, first_token_s=9, latency_s=10, replayed=True))
    found = window.snapshot().spans["hour"].first_token.percentiles()
    assert found.measured == 1
    assert found.p50 == pytest.approx(0.3, rel=0.045)


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_are_right_within_a_bucket(seed):
    chance, times = random.Random(seed), Times()
    values = sorted(chance.lognormvariate(0, 2) for _ in range(chance.randrange(1, 3000)))
    for value in values:
        times.note(value)
    _, *found = times.percentiles()
    for share, seconds in zip((0.5, 0.95, 0.99), found, strict=True):
        exact = values[math.ceil(len(values) * share) - 1]
        assert seconds == pytest.approx(exact, rel=0.045)


def test_a_time_of_nothing_is_a_time():
    times = Times()
    times.note(0.0)
    times.note(-1.0)
    assert times.percentiles().measured == 2


def test_a_record_tells_the_timeline_from_the_calls_start(time):
    recent = RecentCalls(wall_clock=time.wall)
    recent.add(
        settled(
            time,
            reasons=("status_503", None),
            first_token_s=0.15,
            latency_s=2,
            redactions={"email": 2},
        )
    )
    (record,) = recent.after(0)
    facts = record.facts
    assert (record.number, facts.request_id, record.ended_at) == (1, "id-1", time.wall())
    assert (facts.latency_s, facts.redactions, facts.stream) == (2, {"email": 2}, True)
    assert facts.first_token_s == pytest.approx(0.15)
    first, second = facts.timeline
    assert (first.provider, first.model, first.began_s) == ("default", DEFAULT.model, 0)
    assert (first.took_s, first.reason) == (pytest.approx(0.05), "status_503")
    assert (second.began_s, second.reason) == (pytest.approx(0.1), None)


def test_an_attempt_that_runs_on_lasts_until_the_end(time):
    ended = settled(time, "client_gone")
    ended.call.timeline[0].ended = None
    recent = RecentCalls(wall_clock=time.wall)
    recent.add(ended)
    assert recent.after(0)[0].facts.timeline[0].took_s == pytest.approx(1)


def test_the_last_calls_are_kept_and_told_once(time):
    recent = RecentCalls(wall_clock=time.wall)
    for _ in range(KEPT + 3):
        recent.add(settled(time))
    assert recent.last == KEPT + 3
    assert [call.number for call in recent.after(0)] == list(range(4, KEPT + 4))
    assert [call.number for call in recent.after(KEPT + 1)] == [KEPT + 2, KEPT + 3]
    assert recent.after(KEPT + 3) == []


def test_a_record_has_no_field_for_content():
    names = {*RecentCall._fields, *CallFacts._fields, *AttemptFacts._fields}
    assert not names & {"messages", "options", "text", "prompt", "answer", "call", "usage"}
