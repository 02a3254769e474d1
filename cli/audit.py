"""`python server.py audit`: the samples that [audit] keeps, as a list or one by one.

Rules of this module:

- It reads what telemetry/audit.py writes, from the oldest file that was put aside to the newest,
  and holds one sample at a time.
- A line that is no sample is passed over: on standard output the log's are between them.
- What comes from a file is shown without its control characters: an answer may hold some that a
  terminal would obey.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from config import AuditConfig
from errors import OUTCOMES, ConfigError

Sample = dict[str, Any]

_BAR: Final = 40
_HEAD: Final = (
    f"{'time':24}  {'outcome':26}  {'model':20}  {'ms':>8}  {'first':>8}  {'tries':>5}  "
    f"{'tokens':>7}  {'US$':>10}  request id"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="default: [audit] destination, and what was put aside of it; -: standard input",
    )
    parser.add_argument("--code", choices=list(OUTCOMES), metavar="CODE", help="with this outcome")
    parser.add_argument("--failed", action="store_true", help="with any but completed")
    parser.add_argument("--model", metavar="NAME", help="of this model")
    parser.add_argument(
        "--since", type=_instant, metavar="ISO", help="from this instant on (UTC unless it says)"
    )
    parser.add_argument("--request-id", metavar="ID", help="this call, with all that is known")
    parser.add_argument("--json", action="store_true", help="the lines as they are")


def show(config: AuditConfig, asked: argparse.Namespace) -> int:
    """Print the samples that were asked for; the exit code.

    Raises:
        ConfigError: there is no file to read.
    """
    try:
        shown = 0
        for line, sample in _samples(_files(config, asked.file)):
            if not _is_asked(sample, asked):
                continue
            if asked.json:
                print(line)
            elif asked.request_id:
                print("\n".join(_whole(sample)))
            else:
                if not shown:
                    print(_HEAD)
                print(_row(sample))
            shown += 1
        if not shown:
            print("no samples", file=sys.stderr)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has read enough; nothing is left to be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _files(config: AuditConfig, named: str | None) -> list[Path | None]:
    """The files to read, the oldest first; None is standard input."""
    if named == "-":
        return [None]
    if not named and config.destination in ("", "stdout"):
        told = f"[audit] destination = {config.destination}".rstrip()
        raise ConfigError(f"{told}: name the FILE to read, or - for standard input")
    file = Path(named or config.destination)
    aside = [path for path in file.parent.glob(f"{file.name}.*") if path.suffix[1:].isdecimal()]
    files = sorted(aside, key=lambda path: -int(path.suffix[1:]))
    if file.exists():
        files.append(file)
    if not files:
        raise ConfigError(f"{file}: there is no such file; it is made when the server starts")
    return [*files]


def _samples(files: list[Path | None]) -> Iterator[tuple[str, Sample]]:
    for path in files:
        with ExitStack() as stack:
            try:
                lines = stack.enter_context(path.open(errors="replace")) if path else sys.stdin
            except OSError as fault:
                raise ConfigError(f"{path}: cannot be read: {fault.strerror}") from None
            for line in lines:
                try:
                    sample = json.loads(line)
                except ValueError:  # cut off where a process was killed, or not ours
                    continue
                if isinstance(sample, dict) and sample.get("event") == "audit":
                    yield line.rstrip("\n"), sample


def _is_asked(sample: Sample, asked: argparse.Namespace) -> bool:
    return not (
        (asked.code and sample["code"] != asked.code)
        or (asked.failed and sample["code"] == "completed")
        or (asked.model and sample["model"] != asked.model)
        or (asked.request_id and sample["request_id"] != asked.request_id)
        or (asked.since and datetime.fromisoformat(sample["time"]) < asked.since)
    )


def _row(sample: Sample) -> str:
    outcome = f"{sample['status']} {sample['code']}"
    first = sample["first_token_ms"]
    tokens = sample["prompt_tokens"] + sample["answer_tokens"]
    return _plain(
        f"{sample['time']:24}  {outcome:26}  {sample['model'] or '-':20}  "
        f"{sample['latency_ms']:8.1f}  {'-' if first is None else f'{first:.1f}':>8}  "
        f"{len(sample['attempts']):5}  {tokens:7}  {_usd(sample):>10}  {sample['request_id']}"
    )


def _usd(sample: Sample) -> str:
    if sample["counted_by"] is None:
        return "-"
    usd = sample["cost_usd"]
    return "unknown" if usd is None else f"{usd:.6f}"


def _whole(sample: Sample) -> Iterator[str]:
    shown = {
        "request id": sample["request_id"],
        "trace id": sample["trace_id"],
        "time": sample["time"],
        "outcome": " ".join(map(str, filter(None, map(sample.get, ("status", "code", "reason"))))),
        "caller": sample["caller"],
        "route": f"{sample['route']}{', streamed' if sample['stream'] else ''}",
        "model": sample["model"],
        "finish reason": sample["finish_reason"],
        "tokens": _tokens(sample),
        "US$": _usd(sample),
        "redactions": ", ".join(f"{kind} {n}" for kind, n in sample["redactions"].items()),
        "provider's id": sample["provider_request_id"],
    }
    for name, value in shown.items():
        if value:
            yield f"{name:14}{_plain(str(value))}"
    yield from map(_plain, _timeline(sample))
    for message in sample.get("prompt", ()):
        content = message.get("content")
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        yield from _quoted(message["role"], text)
    if "answer" in sample:
        yield from _quoted("answer", sample["answer"])
        if sample["content_cut"]:
            yield "\n(there was more than is kept)"


def _tokens(sample: Sample) -> str:
    by = sample["counted_by"]
    return f"{sample['prompt_tokens']} + {sample['answer_tokens']}, {by}" if by else ""


def _timeline(sample: Sample) -> Iterator[str]:
    """What happened when, drawn to scale."""
    latency_ms = max(sample["latency_ms"], 0.1)
    yield ""
    yield f"{'':30}0{sample['latency_ms']:>{_BAR - 4}.0f} ms"
    attempts = [(each, "") for each in sample["attempts"]]
    attempts += [(each, "not asked: ") for each in sample["passed_over"]]
    for each, not_asked in sorted(attempts, key=lambda pair: float(pair[0]["began_ms"])):
        began, ended = each["began_ms"], each["ended_ms"] or each["began_ms"]
        at = _column(began, latency_ms)
        bar = " " * at + "█" * max(1, _column(ended, latency_ms) - at)
        what = f"{not_asked}{each['reason'] or 'answered'}"
        name = f"{each['provider']}/{each['model']}"
        yield f"{name:28.28}  {bar:{_BAR}}  {began:.0f} to {ended:.0f} ms  {what}"
    if sample["first_token_ms"] is not None:
        at = _column(sample["first_token_ms"], latency_ms)
        bar = " " * at + "▲" + "░" * (_BAR - 1 - at)
        yield f"{'first token':28}  {bar:{_BAR}}  {sample['first_token_ms']:.0f} ms"


def _column(at_ms: float, latency_ms: float) -> int:
    return min(_BAR - 1, int(_BAR * at_ms / latency_ms))


def _quoted(who: str, text: str) -> Iterator[str]:
    yield f"\n{_plain(str(who))}:"
    for line in text.splitlines():
        yield f"    {_plain(line)}"


def _plain(text: str) -> str:
    """Without what a terminal might obey."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
