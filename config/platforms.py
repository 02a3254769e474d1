"""Platforms that run a server behind their router, known by the variables that they set.

Tokens of their command lines (FLY_API_TOKEN, RAILWAY_TOKEN) are on developers' machines, too, and
say nothing.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple


class Platform(NamedTuple):
    """Where a server runs."""

    name: str
    variables: tuple[str, ...]
    """Any of them is proof."""
    hops: int | None = None
    """Entries that its router adds to X-Forwarded-For; None where that is not documented."""


PLATFORMS: Final = (
    Platform("Heroku", ("DYNO",), hops=1),
    # https://render.com/docs/environment-variables
    Platform("Render", ("RENDER",)),
    # https://docs.railway.com/reference/variables
    Platform(
        "Railway",
        (
            "RAILWAY_ENVIRONMENT",
            "RAILWAY_ENVIRONMENT_ID",
            "RAILWAY_ENVIRONMENT_NAME",
            "RAILWAY_PROJECT_ID",
            "RAILWAY_SERVICE_ID",
        ),
    ),
    # https://fly.io/docs/machines/runtime-environment; its last entry is the app's own address.
    Platform("Fly.io", ("FLY_APP_NAME", "FLY_MACHINE_ID", "FLY_ALLOC_ID"), hops=2),
    # https://cloud.google.com/run/docs/container-contract
    Platform("Cloud Run", ("K_SERVICE",), hops=1),
    Platform("App Engine", ("GAE_SERVICE",)),
    # https://learn.microsoft.com/azure/app-service/reference-app-settings
    Platform("Azure App Service", ("WEBSITE_SITE_NAME",)),
    Platform("Azure Container Apps", ("CONTAINER_APP_NAME",)),
    # https://deta.space/docs/en/build/fundamentals/the-space-runtime/configuration
    Platform("Deta", ("DETA_SPACE_APP", "DETA_RUNTIME")),
)


def platform_of(environ: Mapping[str, str]) -> Platform | None:
    """The platform with this environment."""
    return next((each for each in PLATFORMS if any(map(environ.get, each.variables))), None)
