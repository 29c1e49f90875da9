#!/usr/bin/env bash
# Builds tiltmeter, makes the bench model if need be, and measures the same rollouts by tiltmeter and by transformers; arguments go to
# rollouts.py. PYTHON is the Python that has torch and transformers; TILTMETER a program that shall be taken instead of building one.
set -euo pipefail
exec "${PYTHON:-python3}" "$(cd "$(dirname "$0")" && pwd)/rollouts.py" "$@"
