#!/usr/bin/env bash
# Builds the programs that check.sh runs and packs them small: the program, its tests, and the kernels' tests, all with GPU support.
# Needs Rust and CUDA's nvcc, but no GPU.
#
# usage: tests/gpu/pack.sh FOLDER [CARGO FLAGS]     e.g. tests/gpu/pack.sh .gpu
#        tests/gpu/pack.sh --dry FOLDER             the same without CUDA, for check.sh --dry
set -euo pipefail
features=(--features cuda)
if [ "${1:-}" = --dry ]; then features=(); shift; fi
folder=${1:?a folder for the programs}
shift
cd "$(dirname "$0")/../.."
mkdir -p "$folder"
target=${CARGO_TARGET_DIR:-target}/release

cargo build --release "${features[@]}" "$@"
cp "$target/tiltmeter" "$folder/tiltmeter"
# Cargo says which files its test programs are.
tests=$(cargo test --release --workspace "${features[@]}" "$@" --no-run --message-format json |
  python3 -c '
import json, sys
from pathlib import Path
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["profile"]["test"]:
        crate = Path(message["manifest_path"]).parent.name
        print(crate + ":" + message["target"]["name"], message["executable"])')
program() { echo "$tests" | awk -v name="$1" '$1 == name { print $2 }' | tail -1; }
cp "$(program engine:it)" "$folder/it"
cp "$(program kernels:tiltmeter_kernels)" "$folder/kernels"
for name in tiltmeter it kernels; do
  strip "$folder/$name"
  xz -T2 -6 -f "$folder/$name"
done
ls -l "$folder"
