#!/usr/bin/env bash
# Everything about the GPU engine that only a GPU can show, in one run of under ten minutes, without Rust and without a network:
#
#   kernels       every kernel on fresh random inputs against its reference
#   engine        tiny checkpoints against transformers' values; conversations the same to the bit alone, together, in other chunks
#   transformers  the same tiny checkpoints by this machine's transformers: is its RoPE right?
#   bench         Olmo-3-7B's shape with synthetic weights: bandwidth, prefill, decoding beside its floor, capture, 48 together
#                 against alone, the recorded rollouts from end to end
#   peer          those rollouts by transformers on the same card
#
# usage: tests/gpu/check.sh PROGRAMS [OUT]     PROGRAMS: a folder that tests/gpu/pack.sh filled; OUT: where check.json and logs go
#        tests/gpu/check.sh --dry PROGRAMS     the same on a machine without a GPU: emulated kernels, tiny sizes
# A part that fails does not keep the others from running; the table at the end says what passed, and so does the exit status.
set -uo pipefail
dry=no
if [ "${1:-}" = --dry ]; then dry=yes; shift; fi
programs=${1:?the folder with the programs}
out=${2:-${OUT:-/tmp/gpu-check}}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}

for name in tiltmeter it kernels; do
  if [ -e "$programs/$name.xz" ]; then
    "$python" -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[2], "wb"))' "$programs/$name.xz" "$work/$name"
  else
    cp "$programs/$name" "$work/$name"
  fi
  chmod +x "$work/$name"
done
if [ $dry = no ]; then
  # All that the programs load is the driver's library; it may lie where nobody looks.
  drivers=$(find /usr/local/nvidia /usr/lib /usr/lib64 -name 'libcuda.so.1' 2>/dev/null | xargs -r -n1 dirname | sort -u | paste -sd:)
  export LD_LIBRARY_PATH=${drivers:+$drivers:}${LD_LIBRARY_PATH:-}
  export TILTMETER_TEST_GPU=0
  nvidia-smi --query-gpu=name,memory.total,memory.used,driver_version,clocks.max.sm --format=csv | tee "$out/gpu.txt"
fi

seconds=$SECONDS
declare -A status took
part() { # part NAME LIMIT COMMAND...: its output to a log, its last lines shown
  local name=$1 limit=$2 began=$SECONDS
  shift 2
  echo "== $name"
  timeout "$limit" "$@" > "$out/$name.log" 2> "$out/$name.err"
  status[$name]=$?
  took[$name]=$((SECONDS - began))
  tail -n 4 "$out/$name.log"
  if [ "${status[$name]}" != 0 ]; then tail -n 12 "$out/$name.err"; fi
}

cd "$root" || exit 1
if [ $dry = no ]; then
  part kernels 120 "$work/kernels" --test-threads 1 gpu
  part engine 90 "$work/it" --test-threads 1 --nocapture gpu::
  part transformers 60 "$python" "$here/hf_tiny.py" "$root/tests/fixtures/parity" --device cuda
  part bench 330 "$work/tiltmeter" bench --shape "$here/olmo3_7b.json" --device cuda --batch 1,16,48 --context 2048,4096 --tokens 64 --rollouts "$here/003b_lengths.json" --json
  part peer 130 "$python" "$here/hf_rollouts.py" --shape "$here/olmo3_7b.json" --lengths "$here/003b_lengths.json" --device cuda
else
  part kernels 600 "$work/kernels" gpu::tests::rows
  part engine 600 "$work/it" --nocapture gpu::olmo3_yarn_nested_8l
  part transformers 120 "$python" "$here/hf_tiny.py" "$root/tests/fixtures/parity" --device cpu
  part bench 600 env TILTMETER_BENCH_OUT="$out/bench.json" "$work/it" --nocapture gpu::the_bench_measures_what_it_says
  [ -e "$out/bench.json" ] && cp "$out/bench.json" "$out/bench.log"
  "$python" - "$here" "$work" <<'PY'
import json, sys
from pathlib import Path
here, work = map(Path, sys.argv[1:])
shape = json.loads((here / "olmo3_7b.json").read_text())
shape |= dict(hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4, vocab_size=200, eos_token_id=1, pad_token_id=0)
shape["layer_types"] = shape["layer_types"][:4]
(work / "shape.json").write_text(json.dumps(shape))
PY
  part peer 300 "$python" "$here/hf_rollouts.py" --shape "$work/shape.json" --lengths "$here/003b_lengths.json" --device cpu --at 32,64 --steps 4
fi

{
  printf '{"dry": "%s", "seconds": %d, "parts": {' "$dry" $((SECONDS - seconds))
  comma=
  for name in kernels engine transformers bench peer; do
    printf '%s"%s": {"status": %d, "seconds": %d}' "$comma" "$name" "${status[$name]}" "${took[$name]}"
    comma=', '
  done
  printf '}}\n'
} > "$out/parts.json"
"$python" "$here/table.py" "$out"
