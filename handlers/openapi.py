"""GET /openapi.json: the routes of this server, described by the schemas that they are held to.

    schemas/openapi.json          the routes, with references to
    schemas/chat.request.json …   what bodies and replies are held against

Rules of this module:

- The document is one piece, made when it is first asked for: each schema file becomes a
  component, and references between files become references within the document.
- It says what this server will take: the models that everybody may ask, its longest answer, and
  no route that is off.
"""

from typing import Any, Final

from config import Config
from handlers.base import BaseHandler
from json_tree import leaves
from schemas import load

_COMPONENTS: Final = "#/components/schemas/"
# What is too much here on /v1 is refused only if the operator says so.
_REFUSED_FIELDS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")


def describe(config: Config, version: str) -> dict[str, Any]:
    """The OpenAPI document of a server with these settings."""
    document = _read("openapi")
    document["info"]["version"] = version
    if not config.openai_routes:
        paths = document["paths"]
        document["paths"] = {path: paths[path] for path in paths if not path.startswith("/v1/")}
        del document["components"]["responses"]["OpenAIError"]
    if not config.idempotency.max_entries:
        _leave_out_idempotency_key(document)
    if config.auth.mode in ("keys", "jwt"):
        document["security"] = [{"bearer": []}]
    schemas = document["components"]["schemas"]
    wanted = _localized(document, "")
    while wanted:
        name = wanted.pop()
        if name not in schemas:
            schemas[name] = _read(name)
            wanted |= _localized(schemas[name], name)
    for name, schema in schemas.items():
        if name.endswith(".request"):
            _narrow(schema["properties"], config)
        if name.startswith("openai.") and name.endswith(".request"):
            _allow_null(schema)
    return document


def _leave_out_idempotency_key(document: dict[str, Any]) -> None:
    """The header is ignored, so it is no parameter."""
    del document["components"]["parameters"]["IdempotencyKey"]
    for path in document["paths"].values():
        for operation in path.values():
            if "parameters" in operation:
                operation["parameters"] = [
                    each
                    for each in operation["parameters"]
                    if not each.get("$ref", "").endswith("/IdempotencyKey")
                ]


def _read(name: str) -> dict[str, Any]:
    schema = load(f"{name}.json")
    for key in ("$schema", "$id"):  # within the document it has neither an address nor a dialect
        schema.pop(key, None)
    return schema


def _localized(document: dict[str, Any], name: str) -> set[str]:
    """Turn references to files into references within the document; the files' names."""
    files = set()
    for holder, key in leaves(document):
        if key != "$ref" or holder[key].startswith("#/components/"):
            continue
        file, _, place = holder[key].partition("#")
        file = file.removesuffix(".json") or name
        files.add(file)
        holder[key] = f"{_COMPONENTS}{file}{place}"
    return files


def _narrow(fields: dict[str, Any], config: Config) -> None:
    """Say of a request's fields what is true of this server."""
    if config.auth.mode in ("none", "public"):  # else it depends on who asks
        models = config.models.items()
        fields["model"]["enum"] = [name for name, model in models if not model.callers]
    most = max(model.most_requested_tokens for model in config.models.values())
    refuses = config.openai.max_tokens_policy == "refuse"
    for name in ("maxTokens", *(_REFUSED_FIELDS if refuses else ())):
        if name in fields:
            fields[name]["maximum"] = most


def _allow_null(schema: dict[str, Any]) -> None:
    """Say that a field may be null instead of not given."""
    for name, field in schema["properties"].items():
        if name in schema["required"]:
            continue
        if "type" in field:
            kinds = field["type"]
            field["type"] = [*([kinds] if isinstance(kinds, str) else kinds), "null"]
        if "enum" in field:
            field["enum"].append(None)


class OpenAPIHandler(BaseHandler):
    """The document."""

    route = "/openapi.json"

    def head(self) -> None:
        self.get()

    def get(self) -> None:
        made_for, document = self.settings.get("openapi", (None, {}))
        if made_for is not self.config:
            document = describe(self.config, self.services.version)
            self.settings["openapi"] = self.config, document
        self.answer(document)
