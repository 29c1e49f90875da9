"""What the scripts that measure speed share: what machine it was and who else used it, running oneself again under another oneDNN
setting, which kernels torch really called, the model that is measured, and tables.
"""

import ctypes
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

DEFAULT_ISA = "default"
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BENCH = ROOT / "target" / "peers" / "bench"
"""The model of make_bench_model.py that everything here measures unless told otherwise: weights stored in bf16, 36 turns, 2 conditions."""


def bench_model():
    """Makes it if it is not there; returns its folder."""
    if not (BENCH / "bench.yaml").exists():
        command = [sys.executable, str(HERE / "make_bench_model.py"), "--out", str(BENCH), "--dtype", "bf16", "--turns", "36", "--conditions", "2"]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return BENCH


def machine():
    """One line: CPU, what of bf16 it offers, cores, load before the measurement."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        field = lambda name: next(line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith(name))
        name, flags = f"{field('model name')} (family {field('cpu family')}, model {field('model')})", set(field("flags").split())
    except (OSError, StopIteration):
        name, flags = platform.processor() or platform.machine(), set()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}; {', '.join(known) or platform.machine()}; {cores} cores"


class Others:
    """How many cores everything else on the machine kept busy since this was made. A measurement beside a compiler is none."""

    def __init__(self):
        self.began, self.busy, self.own = time.perf_counter(), busy_seconds(), own_seconds()

    def cores(self):
        """None where the machine does not say."""
        if self.busy is None:
            return None
        return max(0.0, (busy_seconds() - self.busy - (own_seconds() - self.own)) / (time.perf_counter() - self.began))

    def __str__(self):
        cores = self.cores()
        return "no telling what else ran" if cores is None else f"other programs used {cores:.2f} cores meanwhile"


def busy_seconds():
    try:
        user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    except OSError:
        return None
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def own_seconds():
    """Of this process and of its children that have ended."""
    return sum(getattr(resource.getrusage(who), f) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN) for f in ("ru_utime", "ru_stime"))


def isa_environment(isa, threads):
    """The environment that keeps oneDNN to an instruction set; it is read once, when torch is loaded."""
    environment = {key: value for key, value in os.environ.items() if key != "ONEDNN_MAX_CPU_ISA"}
    if isa != DEFAULT_ISA:
        environment["ONEDNN_MAX_CPU_ISA"] = isa
    return environment | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}


def under_isa(isa, threads, arguments):
    """Runs the calling script again in a process of its own, kept to `isa`; returns the JSON object of its last line."""
    command = [sys.executable, str(Path(sys.argv[0]).resolve()), *arguments]
    done = subprocess.run(command, env=isa_environment(isa, threads), stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} with ONEDNN_MAX_CPU_ISA {isa}: exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def log_of(call):
    """What oneDNN and MKL print of one call; they write to the C library's stdout."""
    import torch

    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(1), torch.backends.mkl.verbose(1):
                call()
            libc.fflush(None)
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        file.seek(0)
        return file.read().decode().splitlines()


def kernel_of(lines):
    """Implementation names in the order they ran, reorders of the weights included."""
    found = []
    for line in lines:
        if line.startswith("onednn_verbose") and ",primitive,exec,cpu," in line:
            primitive, implementation = line.split(",primitive,exec,cpu,")[1].split(",")[:2]
            found.append(implementation if primitive in ("matmul", "inner_product") else f"{primitive} {implementation}")
        elif line.startswith("MKL_VERBOSE") and "(" in line and not line.startswith("MKL_VERBOSE oneMKL"):
            found.append("mkl " + line.split()[1].split("(")[0].lower())
    counts = Counter(found)
    return " + ".join(f"{n} x {name}" if n > 1 else name for name, n in counts.items()) or "aten"


def best_isa(lines):
    """What oneDNN says of the CPU; it says so once in a process."""
    return next((line.split("cpu,isa:")[1] for line in lines if "cpu,isa:" in line), None)


def numbers(text):
    return [int(part) for part in text.split(",")]


def names(text):
    return text.split(",")


def table(header, rows):
    """Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])
