"""The same rollouts by tiltmeter and by transformers, one after the other, at several lengths of conversation.

    ./rollouts.sh --turns 6,18,36 --samples 16,16,4 --conditions 2 --dtype bf16,f32

The bench model (weights stored in bf16) under target/peers/bench; user turns of 40 tokens, 32 sampled tokens each, every reply projected.
tiltmeter runs the checkpoint as it is; --dtype is transformers' (`f32` upcasts). Both generate all samples of a condition together
(--micro-batch for fewer). Both must have generated conditions x turns x samples x 32 tokens, or there is no table.

wall, s   transformers: without loading and imports, as transformers_rollouts.py takes it. tiltmeter: the whole process, loading and the
          report included
peak MiB  maximum resident set of the whole process, from the kernel when it has ended

--samples takes one number, or one for each of --turns. Rows are printed as they are measured.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_common import HERE, ROOT, Others, bench_model, machine, names, numbers, table

TOKENS = 32
HEADER = ["turns", "samples", "conditions", "", "", "generated", "wall, s", "tokens/s", "beside tiltmeter", "peak MiB"]


def watched(command, **options):
    """Runs it; its output, seconds, and most memory at a time in MiB."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit status {process.returncode}\n{output[-3000:]}")
    return output, time.perf_counter() - began, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def experiment(folder, bench, turns, samples, micro_batch, conditions):
    """bench.yaml again for this many of everything; returns its path and the transcript's."""
    transcript = json.loads((bench / "transcript.json").read_text())
    if turns * 2 > len(transcript["conversation"]):
        raise SystemExit(f"{turns} turns: the transcript of {bench} has {len(transcript['conversation']) // 2}")
    transcript["conversation"] = transcript["conversation"][: 2 * turns]
    kept = folder / "transcript.json"
    kept.write_text(json.dumps(transcript))
    lines, seen = [], 0
    for line in (bench / "bench.yaml").read_text().splitlines():
        if line.startswith("  - {label:"):
            seen += 1
            if seen > conditions:
                continue
        line = re.sub(r"^transcript: .*", lambda _: f"transcript: {json.dumps(str(kept))}", line)
        line = re.sub(r"^samples: .*", f"samples: {samples}", line)
        lines.append(re.sub(r"^micro_batch: .*", f"micro_batch: {micro_batch}", line))
    if seen < conditions:
        raise SystemExit(f"{conditions} conditions: {bench}/bench.yaml has {seen}")
    path = folder / "bench.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path, kept


def tiltmeter(program, file, folder, threads, **_):
    command = [program, "run", str(file), "--device", "cpu", "--threads", str(threads), "--out", str(folder / "run"), "--progress", "plain"]
    output, seconds, peak = watched(command, stderr=subprocess.DEVNULL)
    work = re.search(r"^work .*?(\d+) generated", output, re.MULTILINE)
    passes = re.search(r"^work +(\d+) forward token-passes", output, re.MULTILINE)
    return {"wall_s": seconds, "generated_tokens": int(work[1]), "token_passes": int(passes[1]), "peak_rss_mib": peak}


def transformers(dtype, transcript, bench, turns, samples, micro_batch, conditions, threads, reuse_cache):
    command = [sys.executable, str(HERE / "transformers_rollouts.py"), "--model", str(bench / "model"), "--transcript", str(transcript)]
    command += ["--axis", str(bench / "axis.safetensors"), "--site", site(bench), "--turns", str(turns), "--samples", str(samples)]
    command += ["--micro-batch", str(micro_batch), "--conditions", str(conditions), "--threads", str(threads), "--dtype", dtype]
    command += ["--max-new-tokens", str(TOKENS), "--json"] + (["--reuse-cache"] if reuse_cache else [])
    output, seconds, peak = watched(command)
    said = json.loads(output.splitlines()[-1])
    kept = ("wall_s", "load_s", "generate_s", "measure_s", "generated_tokens", "prefilled_tokens", "versions")
    return {key: said[key] for key in kept} | {"process_s": seconds, "peak_rss_mib": peak}


def site(bench):
    return next(line.split()[1] for line in (bench / "bench.yaml").read_text().splitlines() if line.startswith("site:"))


def row(r):
    figures = [r["generated_tokens"], f"{r['wall_s']:.1f}", f"{r['tokens_per_s']:.1f}", f"{r['ratio']:.1f}x", f"{r['peak_rss_mib']:.0f}"]
    return [r["turns"], r["samples"], r["conditions"], r["who"], r["dtype"], *figures]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=numbers, default="6,18,36")
    parser.add_argument("--samples", type=numbers, default="16")
    parser.add_argument("--micro-batch", type=int, default=None, help="samples generated together [default: all]")
    parser.add_argument("--conditions", type=int, default=2, choices=(1, 2))
    parser.add_argument("--dtype", type=names, default="bf16,f32", help="transformers' dtype; several, with commas between")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reuse-cache", action="store_true", help="transformers keeps its KV cache between turns, which such scripts rarely do")
    parser.add_argument("--tiltmeter", default=os.environ.get("TILTMETER"), help="its program [default: $TILTMETER, or built]")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if len(arguments.samples) not in (1, len(arguments.turns)):
        parser.error("--samples: one number, or one for each of --turns")
    samples_of = arguments.samples * len(arguments.turns) if len(arguments.samples) == 1 else arguments.samples
    program = arguments.tiltmeter
    if program is None:
        subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=ROOT, check=True)
        program = str(ROOT / "target" / "release" / "tiltmeter")
    bench = bench_model()
    about, others, results = machine(), Others(), []
    for turns, samples in zip(arguments.turns, samples_of):
        shape = dict(turns=turns, samples=samples, micro_batch=min(arguments.micro_batch or samples, samples), conditions=arguments.conditions)
        expected = arguments.conditions * turns * samples * TOKENS
        with tempfile.TemporaryDirectory() as folder:
            file, transcript = experiment(Path(folder), bench, **shape)
            runs = [("tiltmeter", "bf16 weights", lambda: tiltmeter(program, file, Path(folder), arguments.threads))]
            for dtype in arguments.dtype:
                more = dict(threads=arguments.threads, reuse_cache=arguments.reuse_cache)
                runs.append(("transformers", dtype, lambda dtype=dtype, more=more: transformers(dtype, transcript, bench, **shape, **more)))
            ours = None
            for who, dtype, run in runs:
                result = shape | {"who": who, "dtype": dtype} | run()
                if result["generated_tokens"] != expected:
                    raise SystemExit(f"{who}, {dtype}: {result['generated_tokens']} tokens generated, not {expected}")
                ours = ours or result
                result["tokens_per_s"] = expected / result["wall_s"]
                result["ratio"] = result["wall_s"] / ours["wall_s"]
                results.append(result)
                if not arguments.json:
                    print(table(HEADER, [row(result)]) if len(results) == 1 else table(HEADER, [row(result)]).splitlines()[-1], flush=True)
            shutil.rmtree(Path(folder) / "run", ignore_errors=True)
    if arguments.json:
        print(json.dumps({"machine": about, "others_cores": others.cores(), "threads": arguments.threads, "results": results}))
        return
    versions = next((r["versions"] for r in results if "versions" in r), None)
    peer = f"transformers {versions['transformers']}, torch {versions['torch']}; " if versions else ""
    kept = "the KV cache kept between turns" if arguments.reuse_cache else "every turn prefilled anew"
    print(f"\n{peer}{kept}; {arguments.threads} threads, {TOKENS} tokens a turn\n{about}\n{others}")


if __name__ == "__main__":
    main()
