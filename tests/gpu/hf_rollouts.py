#!/usr/bin/env python3
"""What recorded rollouts take with transformers, the way the published experiment ran them: the yardstick for the GPU engine.

    python3 hf_rollouts.py --shape olmo3_7b.json --lengths 003b_lengths.json --device cuda

Per condition, turn and micro-batch of four rows: `model.generate` over the whole conversation again (left padding, nothing kept
between turns) until the longest reply of the four, then a second pass over prompt and reply with `output_hidden_states`. Weights are
random, made on the device at the shape of a config.json; replies have the recorded lengths.

Not all of it is run: generation's steps, prefill and the second pass are timed at a few lengths, and the whole is the sum over all
turns and micro-batches with what lies between them interpolated. Every reply of the experiment counts with its own length.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

ROWS = 4


def micro_batches(lengths):
    """(prompt tokens, longest reply, tokens of prompt and reply) of each generation, all rows at the longest of their four."""
    for condition in lengths["conditions"].values():
        system = condition.get("system", 0) + lengths.get("template_tokens", 0)
        replies = condition["reply"]
        for begin in range(0, len(replies), ROWS):
            rows = replies[begin : begin + ROWS]
            for turn in range(len(condition["user"])):
                asked = sum(condition["user"][: turn + 1]) + system * (turn + 1)
                prompt = max(asked + sum(row[:turn]) for row in rows)
                longest = max(row[turn] for row in rows)
                yield prompt, longest, prompt + longest


def interpolate(points, x):
    """Piecewise linear through (length, seconds), the outer pieces drawn on."""
    points = sorted(points)
    if len(points) == 1:
        return points[0][1]
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if x <= x1 or (x1, y1) == points[-1]:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=Path, required=True)
    parser.add_argument("--lengths", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--at", default="256,2048,5120,8192", help="lengths that are timed")
    parser.add_argument("--steps", type=int, default=24, help="tokens generated to time a step")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    transformers.logging.set_verbosity_error()
    shape = json.loads(arguments.shape.read_text())
    folder = Path("/tmp/hf_shape")
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape))
    config = AutoConfig.from_pretrained(folder)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    lengths = json.loads(arguments.lengths.read_text())
    prefill, step, measure = [], [], []

    def timed(call):
        wait()
        began = time.perf_counter()
        call()
        wait()
        return time.perf_counter() - began

    with torch.inference_mode():
        for length in map(int, arguments.at.split(",")):
            ids = torch.randint(0, config.vocab_size, (ROWS, length), device=device)
            mask = torch.ones_like(ids)
            sampling = dict(do_sample=True, temperature=0.7, top_k=0, top_p=1.0, pad_token_id=0, eos_token_id=[])
            generate = lambda n: model.generate(ids, attention_mask=mask, max_new_tokens=n, min_new_tokens=n, **sampling)
            generate(2)
            one = min(timed(lambda: generate(1)) for _ in range(2))
            more = timed(lambda: generate(1 + arguments.steps))
            prefill.append((length, one))
            step.append((length, max(more - one, 0.0) / arguments.steps))
            measure.append((length, timed(lambda: model.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False))))
            print(f"{length} tokens: prefill {1e3 * one:.1f} ms, a step {1e3 * step[-1][1]:.1f} ms, measuring {1e3 * measure[-1][1]:.1f} ms", flush=True)
    total = {"prefill_s": 0.0, "steps_s": 0.0, "measure_s": 0.0}
    count = 0
    for prompt, longest, whole in micro_batches(lengths):
        count += 1
        total["prefill_s"] += interpolate(prefill, prompt)
        total["steps_s"] += longest * interpolate(step, prompt + longest / 2)
        total["measure_s"] += interpolate(measure, whole)
    replies = sum(sum(map(sum, condition["reply"])) for condition in lengths["conditions"].values())
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    result = {
        "peer": "transformers", "versions": {"torch": torch.__version__, "transformers": transformers.__version__}, "device": name,
        "extrapolated_s": round(sum(total.values()), 1), **{key: round(value, 1) for key, value in total.items()},
        "generations": count, "reply_tokens": replies, "timed": {"prefill": prefill, "step": step, "measure": measure},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
