#!/usr/bin/env bash
# Installs llama.cpp's server (the xllamacpp wheel) beside the build, makes a tiny model for it, and compares its token counts with
# what this project's client keeps of them; arguments go to llamacpp_usage.py.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
venv=$here/../../target/peers/llamacpp
[ -d "$venv" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet "xllamacpp==2026.10.11549" "gguf==0.19.0"; }
"$venv/bin/python" "$here/make_tiny_gguf.py" "$venv/tiny.gguf"
exec "$venv/bin/python" "$here/llamacpp_usage.py" "$venv/tiny.gguf" "$@"
