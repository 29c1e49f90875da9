"""How fast llama.cpp runs the bench model in bf16, in the figures that `tiltmeter bench` prints: prefill, and decoding of several batches.

    ./llamacpp_decode.sh          # builds what is needed, makes the model and runs this

native   llama.cpp compiled for this very CPU, measured by its own `llama-batched-bench`: --context tokens into every sequence, then
         --tokens steps of all together; random tokens, no sampling. Prefill is that of one sequence; the best of --rounds each
wheel    the server in the `xllamacpp` wheel, which is compiled for AVX2: what `pip install` gives. Prompts of token ids; prefill and
         decoding are its own timings; with several sequences in its slots, all of them begin decoding together, their prompts cached

What each was compiled for is what its `system_info` says. Nothing is switched off: repacked and AMX buffers take part where llama.cpp
wants them. For bf16 it does not (`--log-verbosity 5`: "tensor 'token_embd.weight' (bf16) (and 134 others) cannot be used with preferred
buffer type AMX"); those go through its tinyBLAS kernels, AVX512_BF16 ones where compiled in. Flash attention is on, by its own choice,
and the KV cache f16.
"""

import argparse
import json
import platform
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from bench_common import Others, machine, numbers, table

SERVE = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_parallel, params.n_ctx, params.port = int(sys.argv[2]), int(sys.argv[3]), 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[4])
params.swa_full = True  # else prompts that are asked for again are computed again
server = xllamacpp.Server(params)
print("SYSTEM", xllamacpp.get_system_info(), flush=True)
print("ADDRESS", server.listening_address, flush=True)
sys.stdin.read()
"""


def native(arguments):
    """What llama-batched-bench prints, and what it was compiled for."""
    most = max(arguments.batch) * (arguments.context + arguments.tokens)
    command = [arguments.bench, "-m", arguments.gguf, "-c", str(most), "-b", "2048", "-ub", "512", "-npp", str(arguments.context)]
    command += ["-ntg", str(arguments.tokens), "-npl", ",".join(map(str, arguments.batch)), "-t", str(arguments.threads)]
    command += ["-tb", str(arguments.threads), "--output-format", "jsonl"]
    best = {}
    for _ in range(arguments.rounds):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stderr[-2000:]}")
        for line in (done.stdout + done.stderr).splitlines():
            if '"speed_tg"' in line:
                row = json.loads(line[line.index("{") :])
                known = best.setdefault(row["pl"], row)
                best[row["pl"]] = {key: max(row[key], known[key]) for key in ("speed_pp", "speed_tg")}
    return {
        "which": "native", "system_info": arguments.system_info, "prefill_tokens_per_s": best[min(best)]["speed_pp"],
        "decode": [{"batch": batch, "tokens_per_s": best[batch]["speed_tg"]} for batch in arguments.batch],
    }  # fmt: skip


def ask(url, body):
    request = urllib.request.Request(f"{url}/completion", data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))


def wheel(arguments):
    slots = max(arguments.batch)
    per_slot = arguments.context + arguments.tokens + 64
    vocab = arguments.vocab
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, arguments.gguf, str(slots), str(slots * per_slot), str(arguments.threads)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        system = next(line.split(" ", 1)[1].strip() for line in server.stdout if line.startswith("SYSTEM"))
        url = next(line.split()[1] for line in server.stdout if line.startswith("ADDRESS"))
        prompts = [[4 + (i * 7919 + number * 104_729) % (vocab - 4) for i in range(arguments.context)] for number in range(slots)]
        common = {"ignore_eos": True, "temperature": 1.0, "top_k": 1, "seed": 1}

        def complete(slot, tokens):
            return ask(url, common | {"prompt": prompts[slot], "id_slot": slot, "n_predict": tokens, "cache_prompt": True})["timings"]

        prefill, decode = 0.0, []
        for slot in range(slots):
            timings = complete(slot, 1)
            prefill = max(prefill, timings["prompt_per_second"] if timings["prompt_n"] >= arguments.context - 1 else 0.0)
        with ThreadPoolExecutor(slots) as pool:
            for batch in arguments.batch:
                speed = 0.0
                for _ in range(arguments.rounds):
                    done = list(pool.map(lambda slot: complete(slot, arguments.tokens + 1), range(batch)))
                    fed = max(timings["prompt_n"] for timings in done)
                    drawn = sum(timings["predicted_n"] for timings in done)
                    if drawn != batch * (arguments.tokens + 1):
                        raise SystemExit(f"{drawn} tokens of {batch} sequences")
                    # The first token of each comes with its prompt.
                    speed = max(speed, (drawn - batch) / max(timings["predicted_ms"] for timings in done) * 1e3)
                decode.append({"batch": batch, "tokens_per_s": speed, "prompt_tokens_computed_again": fed})
    finally:
        server.stdin.close()
        server.wait()
    return {"which": "wheel", "system_info": system, "prefill_tokens_per_s": prefill, "decode": decode}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf")
    parser.add_argument("--bench", required=True, help="path of llama-batched-bench")
    parser.add_argument("--version", default="", help="what it was built from, for the heading")
    parser.add_argument("--system-info", default="unknown", help="what that was compiled for")
    parser.add_argument("--which", default="native,wheel", type=lambda text: text.split(","))
    parser.add_argument("--batch", type=numbers, default="1,4,16")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=8192, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    about, others = machine(), Others()
    results = [{"native": native, "wheel": wheel}[which](arguments) for which in arguments.which]
    if arguments.json:
        print(json.dumps({"peer": "llama.cpp", "version": arguments.version, "python": platform.python_version(), "machine": about,
                          "others_cores": others.cores(), "threads": arguments.threads, "context": arguments.context, "results": results}))  # fmt: skip
        return
    print(f"llama.cpp ({arguments.version}; wheel: xllamacpp), bf16, {arguments.threads} threads, context {arguments.context}\n{about}\n{others}")
    rows = []
    for result in results:
        print(f"{result['which']}: {result['system_info']}")
        rows.append([result["which"], "prefill", f"{result['prefill_tokens_per_s']:.1f}", f"{1e3 * arguments.context / result['prefill_tokens_per_s']:.1f}"])
        for d in result["decode"]:
            rows.append([result["which"], f"decode x{d['batch']}", f"{d['tokens_per_s']:.1f}", f"{1e3 * d['batch'] / d['tokens_per_s']:.2f}"])
    print("\n" + table(["llama.cpp", "", "tokens/s", "ms"], rows))


if __name__ == "__main__":
    main()
