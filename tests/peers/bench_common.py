"""What the scripts that measure speed share: what machine it was and who else used it, running oneself again under another oneDNN
setting, and tables.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

DEFAULT_ISA = "default"


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


def numbers(text):
    return [int(part) for part in text.split(",")]


def names(text):
    return text.split(",")


def table(header, rows):
    """Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows])
