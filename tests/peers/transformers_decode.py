#!/usr/bin/env python3
"""How fast transformers runs a model, in the figures that `tiltmeter bench` prints: prefill, and decoding of several batches.

    python transformers_decode.py                              # the bench model, bf16 and f32, with AMX and without
    python transformers_decode.py --model allenai/Olmo-3-7B-Instruct --dtype bf16 --isa default --json
    tiltmeter bench target/peers/bench/model --device cpu --threads 2 --batch 1,16

prefill   one prompt of --context tokens into an empty KV cache, logits of its last position only; the best of three
decode    --batch sequences of --context tokens, fed together; then --tokens steps: one forward pass with the cache, softmax, one draw
          from it; the median step, and the fastest, which is what it would be on a machine left alone. No sequence ends, nothing is padded,
          no mask is needed

This is the model as transformers runs it, sdpa attention, inference mode, without the Python around it: `generate`, which a plain user
calls, does the same passes and more. --generate measures it beside (--tokens tokens of it, less what one token takes).

--isa sets ONEDNN_MAX_CPU_ISA, each setting in a process of its own; f32 is MKL's and is measured in the first one only. `kernels` are
the matrix products that one decoding step and one prefill really called, from oneDNN's and MKL's own logs; `aten` would be neither.
"""

import argparse
import json
import platform
import resource
import statistics
import sys
import time
import warnings

from bench_common import DEFAULT_ISA, Others, bench_model, best_isa, kernel_of, log_of, machine, names, numbers, table, under_isa


def prompts(batch, context, vocab):
    """The tokens that `tiltmeter bench` feeds: all over the vocabulary, other ones in every sequence."""
    return [[(i * 7919 + number * 104_729) % vocab for i in range(context)] for number in range(batch)]


def measure(arguments):
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, DynamicCache

    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    # Of keyword names that differ between versions, for both of which this works.
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers.logging.disable_progress_bar()
    (name,) = arguments.dtype
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[name]
    began = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype, attn_implementation="sdpa").eval()
    load_s = time.perf_counter() - began
    vocab = model.config.vocab_size

    def forward(ids, cache):
        return model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].float()

    def draw(logits):
        return torch.multinomial(logits.softmax(-1), 1)

    def timed(call):
        before = time.perf_counter()
        call()
        return time.perf_counter() - before

    with torch.inference_mode():
        prompt = torch.tensor(prompts(1, arguments.context, vocab))
        # The first call also warms up.
        prefill_log = log_of(lambda: forward(prompt, DynamicCache(config=model.config)))
        prefill_s = min(timed(lambda: forward(prompt, DynamicCache(config=model.config))) for _ in range(3))
        decode = []
        for batch in arguments.batch:
            ids = torch.tensor(prompts(batch, arguments.context, vocab))
            cache = DynamicCache(config=model.config)
            token = draw(forward(ids, cache))
            log = log_of(lambda: forward(token, cache))
            steps = []
            for _ in range(arguments.tokens):
                before = time.perf_counter()
                token = draw(forward(token, cache))
                steps.append(time.perf_counter() - before)
            step_s = statistics.median(steps)
            del cache
            row = {"batch": batch, "context": arguments.context, "tokens_per_s": batch / step_s, "step_s": step_s, "fastest_step_s": min(steps), "kernels": kernel_of(log)}
            if arguments.generate:
                more = dict(attention_mask=torch.ones_like(ids), do_sample=True, top_k=0, eos_token_id=-1, pad_token_id=0)
                one = timed(lambda: model.generate(ids, max_new_tokens=1, **more))
                all_of_it = timed(lambda: model.generate(ids, max_new_tokens=1 + arguments.tokens, **more))
                row["generate_tokens_per_s"] = batch * arguments.tokens / (all_of_it - one)
            decode.append(row)
    return {
        "torch": torch.__version__, "transformers": transformers.__version__, "model_type": model.config.model_type,
        "parameters": sum(parameter.numel() for parameter in model.parameters()), "onednn_says": best_isa(prefill_log),
        "threads": torch.get_num_threads(), "load_s": load_s,
        "prefill": {"tokens": arguments.context, "tokens_per_s": arguments.context / prefill_s, "kernels": kernel_of(prefill_log)},
        "decode": decode, "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=None, help="a folder or a name on the hub [default: the bench model, made if need be]")
    parser.add_argument("--dtype", type=names, default="bf16,f32", help="of weights and arithmetic")
    parser.add_argument("--isa", type=names, default=f"{DEFAULT_ISA},avx512_core_bf16", help="ONEDNN_MAX_CPU_ISA; several, with commas between")
    parser.add_argument("--batch", type=numbers, default="1,4,16")
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--generate", action="store_true", help="also measure `generate`")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments)))
        return

    model = arguments.model or str(bench_model() / "model")
    about, others, results = machine(), Others(), []
    for dtype in arguments.dtype:
        for isa in arguments.isa if dtype != "f32" else arguments.isa[:1]:
            again = ["--here", "--model", model, "--dtype", dtype, "--batch", ",".join(map(str, arguments.batch))]
            again += ["--context", str(arguments.context), "--tokens", str(arguments.tokens), "--threads", str(arguments.threads)]
            said = under_isa(isa, arguments.threads, again + (["--generate"] if arguments.generate else []))
            results.append({"dtype": dtype, "isa": "any" if dtype == "f32" else isa} | said)
    if arguments.json:
        print(json.dumps({"peer": "transformers", "python": platform.python_version(), "machine": about, "others_cores": others.cores(), "results": results}))
        return
    last = results[-1]
    print(f"transformers {last['transformers']}, torch {last['torch']}, {last['model_type']} of {last['parameters'] / 1e6:.1f} M parameters, "
          f"{last['threads']} threads, context {arguments.context}\n{about}\n{others}\n")  # fmt: skip
    header = ["dtype", "isa", "", "tokens/s", "ms", "fastest: tokens/s", "kernels"] + (["with `generate`"] if arguments.generate else [])
    rows = []
    for r in results:
        prefill = r["prefill"]
        ms = f"{1e3 * prefill['tokens'] / prefill['tokens_per_s']:.1f}"
        rows.append([r["dtype"], r["isa"], "prefill", f"{prefill['tokens_per_s']:.0f}", ms, "", prefill["kernels"], ""])
        for d in r["decode"]:
            figures = [f"{d['tokens_per_s']:.1f}", f"{1e3 * d['step_s']:.2f}", f"{d['batch'] / d['fastest_step_s']:.1f}", d["kernels"]]
            generate = f"{d['generate_tokens_per_s']:.1f}" if arguments.generate else ""
            rows.append([r["dtype"], r["isa"], f"decode x{d['batch']}", *figures, generate])
    print(table(header, [row[: len(header)] for row in rows]))


if __name__ == "__main__":
    main()
