#!/usr/bin/env python3
"""Whether the transformers of this machine computes the tiny checkpoints as the one did that wrote their expected values.

    python3 hf_tiny.py ../fixtures/parity --device cuda

Per checkpoint and site: the largest |difference| over ||h||, in f32. A version that stretches the rotary positions of sliding layers
too (transformers 5.0 to 5.5 did) shows at the first sliding layer.
"""

import argparse
import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fixtures", type=Path)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    transformers.logging.set_verbosity_error()
    rows = []
    for folder in sorted(path for path in arguments.fixtures.iterdir() if path.is_dir()):
        expected = json.loads((folder / "expected.json").read_text())
        tensors = load_file(folder / "expected.safetensors")
        turn = expected["turns"][-1]
        ids = torch.tensor([turn["input_ids"] + turn["generated_ids"]], device=arguments.device)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").to(arguments.device).eval()
        with torch.inference_mode():
            states = model(ids, output_hidden_states=True).hidden_states
        layers = expected["num_layers"]
        worst = 0.0
        for index, state in enumerate(states):
            name = "embed" if index == 0 else "final_norm" if index == layers else f"block.{index - 1}.out"
            theirs = tensors[name].to(arguments.device)
            error = (state[0][: len(theirs)] - theirs).abs().amax(-1) / theirs.norm(dim=-1)
            worst = max(worst, error.max().item())
        rows.append({"checkpoint": folder.name, "tokens": ids.shape[1], "worst": worst, "agrees": worst <= 1e-6 * layers * 4})
        print(f"{folder.name}: {worst:.2e} {'agrees' if rows[-1]['agrees'] else 'DIFFERS'}", flush=True)
    print(json.dumps({"transformers": transformers.__version__, "checkpoints": rows}))


if __name__ == "__main__":
    main()
