"""The command line: what may be asked of server.py, and those commands that only look at files."""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from cli import audit as audit_view
from config import Config, loader
from errors import ConfigError
from guards.auth import key_file


def options(
    argv: list[str] | None, *, description: str, version: str, here: Path
) -> argparse.Namespace:
    """The command and its arguments: `command`, `config`, `cassette`, `action`, `name`."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--config",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="PATH",
        help="settings (default: config.ini beside server.py)",
    )
    parser = argparse.ArgumentParser(
        prog="server.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[shared],
        epilog="SLUICE_<SECTION>_<KEY> overrides any setting; PORT, OPENAI_API_KEY,\n"
        "OPENAI_BASE_URL and REDIS_URL mean what they mean elsewhere. See config.ini.",
    )
    parser.add_argument("--version", action="version", version=f"sluice {version}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("serve", parents=[shared], help="run the server (the default)")
    command = commands.add_parser(
        "check", parents=[shared], help="tell what would go wrong in production; 1 if anything"
    )
    command.add_argument("--live", action="store_true", help="ask each model for one token, too")
    command.add_argument("--json", action="store_true", help="for a pipeline")
    commands.add_parser("config", parents=[shared], help="print the settings in force")
    for name, text in (
        ("record", "serve, and write the provider's answers to CASSETTE"),
        ("replay", "serve from CASSETTE"),
    ):
        command = commands.add_parser(name, parents=[shared], help=text)
        command.add_argument("cassette", type=Path, metavar="CASSETTE")
    command = commands.add_parser("keys", parents=[shared], help="add, list or revoke keys")
    command.add_argument("action", choices=["add", "list", "revoke"])
    command.add_argument("name", nargs="?", metavar="NAME")
    audit_view.add_options(
        commands.add_parser("audit", parents=[shared], help="show the samples that [audit] keeps")
    )
    parser.set_defaults(command="serve", cassette=None)
    asked = parser.parse_args(argv)
    asked.config = getattr(asked, "config", here / "config.ini")
    asked.command = asked.command or "serve"
    return asked


def show(config: Config) -> int:
    """Print the settings in force; the exit code."""
    section = ""
    for name, key, value in loader.effective(config):
        if name != section:
            print(f"{chr(10) if section else ''}[{name}]")
            section = name
        print(f"{key} = {value}".rstrip())
    return 0


def manage_keys(config: Config, asked: argparse.Namespace) -> int:
    """Add, list or revoke keys; the exit code."""
    path = config.auth.keys_file
    if asked.action == "list":
        for name in key_file.names(path):
            print(name)
        return 0
    if not asked.name:
        raise ConfigError(f"keys {asked.action}: which one? python server.py keys add NAME")
    if asked.action == "revoke":
        key_file.revoke(path, asked.name)
        print(f"{asked.name} is revoked; running servers notice within a second")
        return 0
    key, section = key_file.add(path, asked.name, f"{datetime.now(UTC):%Y-%m-%d}")
    print(f"{key}\n\nThis key is shown once. {path} now holds its hash")
    print(f"(for a server elsewhere, paste it there):\n\n{section}")
    return 0
