#!/usr/bin/env python3
"""Multi-turn projection with transformers, the way a study's own script does it: the yardstick for tiltmeter's speed.

    python transformers_rollouts.py --model DIR/model --transcript DIR/transcript.json --axis DIR/axis.safetensors \\
        --site block.7.out --turns 18 --samples 4 --conditions 1 --threads 2

Per condition and turn:
  generate   for each micro-batch: render every conversation whole, pad on the left, `torch.manual_seed(seed + turn * 1000 +
             first row)`, `model.generate` with sampling; the reply goes into the conversation as text
  measure    for each micro-batch: prompt and reply ids padded on the right, a second pass with `output_hidden_states=True`; the
             projection is the mean over the reply's tokens (stop tokens left out) of h . a / |a|

It is meant to be as fast as such a script gets without becoming an engine: inference mode, sdpa attention, a KV cache within
each generation, the body of the model without its head in the measuring pass. `--reuse-cache` also keeps the KV cache from one
turn to the next wherever the rows allow it without holes (all rows' new prompts extend what the cache holds, by equally many
tokens); other turns are prefilled anew and counted.

Loading the model is timed apart from the run.
"""

import argparse
import json
import platform
import resource
import sys
import time
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
DEFAULT_CONDITIONS = [{"label": "baseline", "system_prompt": None, "placement": "start"}]


def read_transcript(path):
    """The user turns, and the conditions if the file brings some."""
    data = json.loads(path.read_text())
    conversation = data if isinstance(data, list) else data["conversation"]
    conditions = DEFAULT_CONDITIONS if isinstance(data, list) else data.get("conditions", DEFAULT_CONDITIONS)
    return [message["content"] for message in conversation if message["role"] == "user"], conditions


def read_axis(path, site):
    with safe_open(path, framework="pt") as file:
        direction = file.get_tensor(site).float()
    return direction / direction.norm()


def hidden_states_index(site, layers):
    """Where a site lies in transformers' `hidden_states`; the last block's own output is not among them."""
    if site == "embed":
        return 0
    if site == "final_norm":
        return layers
    block = int(site.removeprefix("block.").removesuffix(".out"))
    if not 0 <= block < layers - 1:
        raise SystemExit(f"{site}: hidden_states hold the blocks 0 to {layers - 2}; the last entry is after the final norm")
    return block + 1


def stop_ids(model):
    ids = set()
    for eos in (model.config.eos_token_id, model.generation_config.eos_token_id):
        ids |= set(eos) if isinstance(eos, list) else {eos} if eos is not None else set()
    return sorted(ids)


def batches(rows, size):
    return [range(start, min(start + size, rows)) for start in range(0, rows, size)]


class Rollouts:
    """The rows of one condition."""

    def __init__(self, model, tokenizer, unit, site_index, arguments):
        self.model, self.tokenizer, self.unit, self.site_index, self.arguments = model, tokenizer, unit, site_index, arguments
        self.stops = stop_ids(model)
        self.pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.stops[0]
        self.seconds = {"generate": 0.0, "measure": 0.0}
        self.tokens = {"prompt": 0, "generated": 0, "prefilled": 0}
        self.cold_turns = 0

    def render(self, conversation):
        text = self.tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def reusable(self, held, prompts):
        """Whether a micro-batch's cache can be extended by its new prompts as it is."""
        if held is None:
            return False
        cache, ids = held
        same = len({len(prompt) for prompt in prompts}) == 1 and len({len(row) for row in ids}) == 1
        return same and all(prompt[: len(row)] == row and len(prompt) > len(row) for prompt, row in zip(prompts, ids))

    def generate(self, prompts, seed, held):
        """Left-padded sampling; returns the replies' ids and what the cache holds afterwards."""
        width = max(map(len, prompts))
        ids = torch.tensor([[self.pad] * (width - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        cache, prefilled = None, width
        if self.arguments.reuse_cache:
            if self.reusable(held, prompts):
                cache, prefilled = held[0], width - len(held[1][0])
            else:
                cache = DynamicCache(config=self.model.config)
                self.cold_turns += 1
        torch.manual_seed(seed)
        temperature = self.arguments.temperature
        sampling = dict(do_sample=True, temperature=temperature, top_k=0, top_p=1.0) if temperature > 0 else dict(do_sample=False)
        out = self.model.generate(
            ids, attention_mask=mask, max_new_tokens=self.arguments.max_new_tokens, eos_token_id=self.stops, pad_token_id=self.pad,
            **sampling, **({"past_key_values": cache} if cache is not None else {}),
        )
        replies = []
        for row in out[:, width:].tolist():
            end = next((index + 1 for index, token in enumerate(row) if token in self.stops), len(row))
            replies.append(row[:end])
        self.tokens["prompt"] += sum(map(len, prompts))
        self.tokens["generated"] += sum(map(len, replies))
        self.tokens["prefilled"] += prefilled * len(prompts)
        # The last token drawn was never an input, so the cache does not hold it. Padding would leave holes: start cold then.
        full = out.shape[1] == width + len(replies[0]) and len({len(reply) for reply in replies}) == 1 and bool(mask.all())
        return replies, (cache, out[:, :-1].tolist()) if cache is not None and full else None

    def measure(self, prompts, replies):
        """Right-padded second pass; one projection per row."""
        rows = [prompt + reply for prompt, reply in zip(prompts, replies)]
        width = max(map(len, rows))
        ids = torch.tensor([row + [self.pad] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        hidden = self.model.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states[self.site_index]
        means = []
        for row, (prompt, reply) in enumerate(zip(prompts, replies)):
            content = len(reply) - (1 if reply and reply[-1] in self.stops else 0)
            span = hidden[row, len(prompt) : len(prompt) + content].float()
            means.append((span @ self.unit).mean().item() if content else None)
        return means

    def run(self, user_turns, condition):
        arguments = self.arguments
        prompt = condition["system_prompt"]
        at_start = prompt is not None and condition.get("placement", "start") == "start"
        opening = [{"role": "system", "content": prompt}] if at_start else []
        conversations = [list(opening) for _ in range(arguments.samples)]
        held = {}
        projections = []
        for turn, text in enumerate(user_turns):
            for conversation in conversations:
                conversation.append({"role": "user", "content": text})
                if prompt is not None and not at_start:
                    conversation.append({"role": "system", "content": prompt})
            prompts = [self.render(conversation) for conversation in conversations]
            replies = [None] * arguments.samples
            began = time.perf_counter()
            for rows in batches(arguments.samples, arguments.micro_batch):
                seed = arguments.seed + turn * 1000 + rows.start
                drawn, held[rows.start] = self.generate([prompts[row] for row in rows], seed, held.get(rows.start))
                for row, reply in zip(rows, drawn):
                    replies[row] = reply
            middle = time.perf_counter()
            means = []
            for rows in batches(arguments.samples, arguments.micro_batch):
                means += self.measure([prompts[row] for row in rows], [replies[row] for row in rows])
            self.seconds["generate"] += middle - began
            self.seconds["measure"] += time.perf_counter() - middle
            projections.append(means)
            for conversation, reply in zip(conversations, replies):
                content = self.tokenizer.decode(reply, skip_special_tokens=True, clean_up_tokenization_spaces=False)
                conversation.append({"role": "assistant", "content": content})
            print(f"{condition['label']} turn {turn + 1}: {len(prompts[0])} prompt tokens, {time.perf_counter() - began:.2f} s", file=sys.stderr, flush=True)
        return projections


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--transcript", type=Path, required=True)
    parser.add_argument("--axis", type=Path, required=True)
    parser.add_argument("--site", required=True)
    parser.add_argument("--turns", type=int, default=18)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--conditions", type=int, default=1, help="how many of the transcript's conditions; without any, the baseline")
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument("--temperature", type=float, default=0.5, help="0 is greedy")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="f32", help="dtype of weights and arithmetic")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reuse-cache", action="store_true", help="keep the KV cache between turns where that needs no holes")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every projection")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    user_turns, conditions = read_transcript(arguments.transcript)
    if not 0 < arguments.turns <= len(user_turns):
        raise SystemExit(f"--turns {arguments.turns}: the transcript has {len(user_turns)} user turns")
    if not 0 < arguments.conditions <= len(conditions):
        raise SystemExit(f"--conditions {arguments.conditions}: the transcript has {len(conditions)}")
    unit = read_axis(arguments.axis, arguments.site)
    began = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=DTYPES[arguments.dtype], attn_implementation="sdpa").eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    load_seconds = time.perf_counter() - began
    site_index = hidden_states_index(arguments.site, model.config.num_hidden_layers)

    rollouts = Rollouts(model, tokenizer, unit, site_index, arguments)
    began = time.perf_counter()
    with torch.inference_mode():
        projections = {c["label"]: rollouts.run(user_turns[: arguments.turns], c) for c in conditions[: arguments.conditions]}
    wall = time.perf_counter() - began
    # Linux counts in KiB, macOS in bytes.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    expected = arguments.conditions * arguments.turns * arguments.samples * arguments.max_new_tokens
    result = {
        "peer": "transformers", "versions": {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__},
        "dtype": arguments.dtype, "threads": arguments.threads, "reuse_cache": arguments.reuse_cache, "conditions": arguments.conditions,
        "turns": arguments.turns, "samples": arguments.samples, "micro_batch": arguments.micro_batch,
        "load_s": round(load_seconds, 3), "wall_s": round(wall, 3), "generate_s": round(rollouts.seconds["generate"], 3),
        "measure_s": round(rollouts.seconds["measure"], 3), "generated_tokens": rollouts.tokens["generated"],
        "generated_tokens_if_none_stopped": expected, "prompt_tokens": rollouts.tokens["prompt"],
        "prefilled_tokens": rollouts.tokens["prefilled"], "cold_batches": rollouts.cold_turns if arguments.reuse_cache else None,
        "tokens_per_s": round(rollouts.tokens["generated"] / wall, 2), "peak_rss_mib": round(peak / 2**20, 1),
    }
    if arguments.json:
        print(json.dumps(result | {"projections": projections}))
        return
    print(f"{result['generated_tokens']} tokens in {wall:.1f} s = {result['tokens_per_s']} tokens/s, of it {result['generate_s']:.1f} s generating "
          f"and {result['measure_s']:.1f} s measuring; loading {load_seconds:.1f} s; peak RSS {result['peak_rss_mib']:.0f} MiB")


if __name__ == "__main__":
    main()
