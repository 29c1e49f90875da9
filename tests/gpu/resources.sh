#!/usr/bin/env bash
# What every kernel takes of a multiprocessor, and what the compiler made of it: registers, shared memory, stack, spills, and how many
# instructions of some kinds its machine code has. Fails if a kernel spills. Needs no GPU, only the CUDA toolkit.
#
#     tests/gpu/resources.sh                     a table
#     OUT=folder tests/gpu/resources.sh          keeps the machine code there
#     NVCC=… CUOBJDUMP=… tests/gpu/resources.sh  where they are not on the PATH
#
# 16-byte: loads and stores of global memory that are 16 bytes wide / all of them. async: LDGSTS, asynchronous copies to shared memory.
# ldm: LDSM, matrices from shared memory. mma: HMMA, products on tensor cores. local: LDL and STL, memory that registers did not suffice
# for or that is indexed at run time.
set -euo pipefail
cd "$(dirname "$0")/../../kernels"

nvcc=${NVCC:-nvcc} cuobjdump=${CUOBJDUMP:-cuobjdump}
for tool in "$nvcc" "$cuobjdump"; do
  command -v "$tool" >/dev/null || {
    echo "error: $tool was not found" >&2
    echo "hint: it comes with the CUDA toolkit; put its bin folder on the PATH, or say where it is in NVCC and CUOBJDUMP" >&2
    exit 1
  }
done
out=${OUT:-$(mktemp -d)}
mkdir -p "$out"
[ -n "${OUT:-}" ] || trap 'rm -rf "$out"' EXIT

# The flags are those of the build.
read -r -a flags < <(sed -n 's/^const FLAGS: &\[&str\] = &\[\(.*\)\];$/\1/p' build.rs | tr -d '",')
[ "${#flags[@]}" -gt 0 ] || { echo "error: build.rs does not say its FLAGS on one line" >&2; exit 1; }

for source in cuda/*.cu; do
  name=$(basename "$source" .cu)
  if ! "$nvcc" "${flags[@]}" -gencode=arch=compute_90a,code=sm_90a -Xptxas -v -cubin "$source" -o "$out/$name.cubin" 2> "$out/$name.log"; then
    cat "$out/$name.log" >&2
    exit 1
  fi
  "$cuobjdump" -sass "$out/$name.cubin" > "$out/$name.sass"
  awk -v file="$name" '
    FNR == 1 { part++ }
    part == 1 && /Compiling entry function/ { split($0, quoted, "\047"); kernel = quoted[2]; order[++count] = kernel }
    part == 1 && /bytes stack frame/ { stack[kernel] = $1; spill[kernel] = $5 + $9 }
    part == 1 && /Used [0-9]+ registers/ {
      for (i = 1; i < NF; i++) { if ($i == "Used") registers[kernel] = $(i + 1); if ($(i + 1) == "bytes" && $(i + 2) ~ /^smem/) shared[kernel] = $i }
    }
    part == 2 && /Function :/ { kernel = $NF }
    part == 2 && /^ *\/\*[0-9a-f]+\*\// {
      if ($0 ~ /[ \t]LDG/ && $0 !~ /LDGSTS/ && $0 !~ /LDGDEPBAR/) { loads[kernel]++; if ($0 ~ /LDG[A-Z0-9.]*\.128/) wide_loads[kernel]++ }
      if ($0 ~ /[ \t]STG/) { stores[kernel]++; if ($0 ~ /STG[A-Z0-9.]*\.128/) wide_stores[kernel]++ }
      if ($0 ~ /LDGSTS/) async[kernel]++
      if ($0 ~ /LDSM/) ldm[kernel]++
      if ($0 ~ /HMMA/) mma[kernel]++
      if ($0 ~ /[ \t](LDL|STL)/) slow[kernel]++
    }
    END {
      for (i = 1; i <= count; i++) {
        k = order[i]
        printf "%s %s %d %d %d %d %d/%d %d/%d %d %d %d %d\n", file, k, registers[k], shared[k], stack[k], spill[k], wide_loads[k], loads[k], wide_stores[k], stores[k], async[k], ldm[k], mma[k], slow[k]
      }
    }' "$out/$name.log" "$out/$name.sass"
done > "$out/table"

awk '
  BEGIN {
    format = "%-12s %-24s %9s %7s %6s %6s %12s %12s %6s %5s %5s %6s\n"
    printf format, "source", "kernel", "registers", "shared", "stack", "spills", "16-byte ld", "16-byte st", "async", "ldm", "mma", "local"
  }
  { printf format, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12; if ($6 > 0) bad = bad " " $2 }
  END {
    if (bad) { print "error: registers are spilled by" bad > "/dev/stderr"; exit 1 }
    printf "%d kernels, none spills\n", NR
  }' "$out/table"
