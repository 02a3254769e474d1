"""The log of this process: every record goes through one allow-list to standard output."""

import logging
import sys
from typing import TextIO

from telemetry.logging.format import JsonFormatter, TextFormatter
from telemetry.logging.writer import LogWriter


def configure(
    level: str, form: str = "json", *, colour: bool = False, stream: TextIO | None = None
) -> None:
    """Send every record, of libraries too, through the allow-list of `log_format`.

    Handlers that libraries have put on the root logger are removed: the SDK's own debug
    switch, for one, would print whole requests.

    Args:
        form: json; text, for people; auto: text where standard output is a terminal.
        colour: a terminal may be shown colours.
        stream: written to at once, instead of standard output.
    """
    terminal = stream is None and sys.stdout.isatty()
    handler = LogWriter(sys.stdout.fileno()) if stream is None else logging.StreamHandler(stream)
    if form == "text" or (form == "auto" and terminal):
        handler.setFormatter(TextFormatter(colour=colour and terminal))
    else:
        handler.setFormatter(JsonFormatter())
    # Libraries are heard from WARNING on: their chatter says less than our own lines.
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    set_level(level)


def set_level(level: str) -> None:
    """The least level of our own lines, from now on."""
    logging.getLogger("sluice").setLevel(level)


def write(line: str) -> None:
    """Write a line of JSON to standard output in its turn: two writers would mix their lines."""
    for each in _writers():
        each.write(line)


def dropped() -> int:
    """How many lines were dropped, for standard output was not read."""
    return sum(each.dropped for each in _writers())


def _writers() -> list[LogWriter]:
    return [each for each in logging.getLogger().handlers if isinstance(each, LogWriter)]
