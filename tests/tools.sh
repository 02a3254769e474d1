#!/bin/sh
# What some tests use and a Python environment does not hold: a browser, promtool, axe, clients.
# Each is installed where that is possible; a test that misses its own is skipped and says so.
set -u

system() {  # PACKAGE COMMAND
    command -v "$2" >/dev/null && return
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "    $2 is missing, and so are its tests: install it (on Debian: apt-get install $1)"
        return
    fi
    [ -n "${updated-}" ] || apt-get -qq update >/dev/null
    updated=1
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$1" >/dev/null 2>&1 \
        || echo "    $1 could not be installed; its tests are skipped"
}

from_npm() {  # FOLDER
    if ! command -v npm >/dev/null; then
        echo "    npm is missing, and so are the tests that use $1"
        return
    fi
    npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null \
        || echo "    $1 could not be installed; its tests are skipped"
}

from_pypi() {  # REQUIREMENTS FOLDER
    if ! { "${PYTHON:-python3}" -m venv "$2" && "$2/bin/python" -m pip install --quiet \
            --disable-pip-version-check --no-compile -r "$1"; }; then
        rm -rf "$2"
        echo "    $1 could not be installed; the tests with these clients are skipped"
    fi
}

system chromium chromium
system prometheus promtool
from_npm tests/axe
from_npm tests/clients/js
from_pypi tests/clients/requirements.txt .venv-clients
exit 0
