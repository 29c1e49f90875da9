#!/usr/bin/env bash
# Installs llmock beside the build and has it judge this project's client; arguments go to llmock_manners.py.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=$here/../../target/peers/llmock
[ -x "$venv/bin/llmock" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet "llmock==0.2.2"; }
exec "$venv/bin/python" "$here/llmock_manners.py" "$@"
