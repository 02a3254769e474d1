"""Settings: read from config.ini and the environment, checked once, then frozen.

Rules of this module:

- Later wins: default, config.ini, `SLUICE_<SECTION>_<KEY>`, then the platform's own names
  (`PORT`, `OPENAI_API_KEY`, `OPENAI_BASE_URL`). An empty variable is no variable.
- A section [provider:NAME] or [model:NAME] has what it does not set from [provider] or [chat].
- Every fault is one line that names the setting, where it was set, and what is allowed.
- The environment comes in as an argument; only server.py reads the real one.
"""

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from config.platforms import Platform, platform_of
from config.reader import from_environ, from_file, parse
from config.sections import ChatConfig, ProviderConfig
from config.settings import Config, ModelConfig
from config.target import Target
from errors import ConfigError
from schemas.settings import SECTIONS, defaults, parents, settings

# Each setting may not exceed the next one in its chain.
_CHAINS: Final = (
    (("provider", "connect_s"), ("provider", "first_token_s"), ("provider", "attempt_s")),
    (("provider", "attempt_s"), ("provider", "deadline_s"), ("server", "platform_timeout_s")),
    (("provider", "deadline_s"), ("provider", "stream_s")),
    (("provider", "max_line_bytes"), ("provider", "max_stream_bytes")),
    (("retry", "backoff_s"), ("retry", "backoff_max_s")),
    (("circuit", "open_s"), ("circuit", "open_max_s")),
)
_PARENTS: Final = parents()
_MODEL_KEYS: Final = tuple(field.name for field in fields(ModelConfig))


def load(path: Path, environ: Mapping[str, str], *, ignore_keys: bool = False) -> Config:
    """Read `path`, lay the environment over it, and check the whole.

    Args:
        ignore_keys: no provider will be asked, so leave all keys alone.

    Raises:
        ConfigError: with one line for the operator.
    """
    values = {section: defaults(section) for section in SECTIONS}
    for section, lines in from_file(path).items():
        values.setdefault(section, defaults(section))
        for key, raw, source in lines:
            values[section][key] = parse(section, key, raw, source)
    for section, key, raw, source in from_environ(environ, values):
        values[section][key] = parse(section, key, raw, source)
    _clamp_inherited(values)
    _check_chains(values)
    for section, key, rule in settings():
        if rule.get("format") == "path":
            values[section][key] = path.parent / values[section][key]
    if (destination := values["audit"]["destination"]) not in ("", "stdout"):
        values["audit"]["destination"] = str(path.parent / destination)
    values["provider"]["api_key_variable"] = SECTIONS["provider"]["properties"]["api_key"][
        "variable"
    ]
    if ignore_keys:
        values["provider"]["api_key"] = ""
    sections = {
        field.name: field.type(**values[field.name])  # type: ignore[operator]
        for field in fields(Config)
        if field.name in SECTIONS
    }
    config = Config(
        **sections,
        providers=_providers(sections["provider"], values, {} if ignore_keys else environ),
        models=_models(sections["chat"], values),
    )
    _check_upstreams(config)
    if not ignore_keys:
        _check_keys(config)
    platform = platform_of(environ)
    check_exposure(config, f"this platform ({platform.name})" if platform else config.host)
    if platform:
        _check_routers(config, platform)
    return config


def effective(config: Config) -> Iterator[tuple[str, str, str]]:
    """`(section, key, value)` of every setting, secrets masked."""
    for section, key, rule in settings():
        value = getattr(getattr(config, section), key)
        yield section, key, _shown(value, secret=rule.get("writeOnly", False))
    for name, provider in config.providers.items():
        if name != "default":
            for key, value in asdict(provider).items():
                yield f"provider:{name}", key, _shown(value, secret=key == "api_key")
    for name, model in config.models.items():
        for key in _MODEL_KEYS:
            yield f"model:{name}", key, _shown(getattr(model, key))


def _shown(value: Any, *, secret: bool = False) -> str:
    if secret:
        return "(set)" if value else "(not set)"
    if isinstance(value, tuple):
        return ", ".join("/".join(each) if isinstance(each, Target) else each for each in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _named(
    kind: str, values: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The sections [kind:NAME], by name."""
    for section in values:
        if section.startswith(f"{kind}:"):
            yield section.partition(":")[2], dict(values[section])


def _providers(
    default: ProviderConfig, values: Mapping[str, Mapping[str, Any]], environ: Mapping[str, str]
) -> dict[str, ProviderConfig]:
    providers = {"default": default}
    for name, own in _named("provider", values):
        if name == "default":
            raise ConfigError("[provider:default]: is [provider]")
        if "base_url" not in own:
            raise ConfigError(f"[provider:{name}] base_url: must be set")
        own.setdefault("api_key_variable", _key_variable(name))
        key = environ.get(own["api_key_variable"], "").strip()
        providers[name] = replace(default, **own, api_key=key)
    return providers


def _key_variable(provider: str) -> str:
    return f"{provider.replace('-', '_')}_API_KEY".upper()


def _models(chat: ChatConfig, values: Mapping[str, Mapping[str, Any]]) -> dict[str, ModelConfig]:
    named = dict(_named("model", values))
    models = {}
    for name in dict.fromkeys((chat.model, *chat.models, *named)):
        own = named.get(name, {})
        targets = own.pop("upstream", (f"default/{name}",))
        upstream = tuple(Target(*target.split("/", 1)) for target in targets)
        as_in_chat = {
            key: getattr(chat, key)
            for key in (field.name for field in fields(ModelConfig))
            if hasattr(chat, key)
        }
        model = ModelConfig(upstream, **{**as_in_chat, "callers": (), **own})
        if model.max_tokens_limit:
            model = replace(model, max_tokens=min(model.max_tokens, model.max_tokens_limit))
        models[name] = model
    return models


def _check_upstreams(config: Config) -> None:
    for name, model in config.models.items():
        for provider, _ in model.upstream:
            if provider not in config.providers:
                known = ", ".join(config.providers)
                raise ConfigError(
                    f"[model:{name}] upstream: there is no provider {provider}; known: {known}"
                )


def _check_keys(config: Config) -> None:
    """Who would be asked must have a key: replaying recorded answers in place of a provider that
    was named would be a surprise, and so would its 401."""
    default_url = SECTIONS["provider"]["properties"]["base_url"]["default"]
    used = config.used_providers
    if config.provider.base_url == default_url and config.replays and list(used) == ["default"]:
        return
    for name, provider in used.items():
        if not provider.api_key:
            section = "[provider]" if name == "default" else f"[provider:{name}]"
            raise ConfigError(
                f"{section} has no key: set {provider.api_key_variable} "
                "(any word does for an engine which wants none)"
            )


def _clamp_inherited(values: Mapping[str, dict[str, Any]]) -> None:
    """Whoever lowers a bound in a named section means what is below it, too."""
    for section, own in values.items():
        kind, _, name = section.partition(":")
        if not name:
            continue
        parent = _PARENTS[kind]
        for chain in _CHAINS:
            for (upper, bound), (lower, key) in pairwise(reversed(chain)):
                if upper == lower == parent and bound in own and key not in own:
                    own[key] = min(values[parent][key], own[bound])


def _check_chains(values: Mapping[str, Mapping[str, Any]]) -> None:
    _check_order(values, {})
    for section, own in values.items():
        kind, _, name = section.partition(":")
        if name:  # what it does not set is as in its parent
            parent = _PARENTS[kind]
            _check_order({**values, parent: {**values[parent], **own}}, {parent: section})


def _check_order(values: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> None:
    for chain in _CHAINS:
        for (section, key), (next_section, next_key) in pairwise(chain):
            value, limit = values[section][key], values[next_section][next_key]
            if value > limit:
                raise ConfigError(
                    f"[{names.get(section, section)}] {key} = {value:g}: must be at most "
                    f"[{names.get(next_section, next_section)}] {next_key} = {limit:g}"
                )


def check_exposure(config: Config, host: str) -> None:
    """Whether this server may listen on `host`; empty is every interface.

    Raises:
        ConfigError: not without authentication.
    """
    if config.auth.mode == "none" and not _is_loopback(host):
        raise ConfigError(
            f"[auth] mode = none: listens on loopback only, not on {host or 'every interface'}; "
            "set SLUICE_AUTH_MODE=keys or jwt, or SLUICE_AUTH_MODE=public to let everyone in"
        )


def _check_routers(config: Config, platform: Platform) -> None:
    """Behind a router that is not named, everybody has its address, and one limit."""
    if not config.server.trusted_hops and any(asdict(config.limit_ip).values()):
        raise ConfigError(
            f"[server] trusted_hops = 0: on this platform ({platform.name}) all clients come "
            f"through a router; set SLUICE_SERVER_TRUSTED_HOPS={platform.hops or 1}"
            + ("" if platform.hops else ", or as many as add to X-Forwarded-For")
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
