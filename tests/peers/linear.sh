#!/usr/bin/env bash
# The linear layer alone, ours and torch's, in one run and one table; arguments go to linear.py. PYTHON is the Python that has torch.
set -euo pipefail
exec "${PYTHON:-python3}" "$(cd "$(dirname "$0")" && pwd)/linear.py" "$@"
