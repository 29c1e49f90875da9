"""Writes a bf16 OLMo checkpoint as GGUF for llama.cpp to be measured with: the same weights, llama.cpp's `olmo2` architecture, which
holds OLMo-3's sliding windows too.

    pip install gguf
    python make_bench_gguf.py bench/model bench/model-bf16.gguf

Matrices stay the bf16 they are, norms become f32, as llama.cpp's own converter has it. That one refuses the bench model for its made-up
tokenizer; here the vocabulary is written for its size alone, so prompts must be token ids.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType

LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "post_attention_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def tensors(path):
    """Name, shape and bits of every tensor; numpy knows no bf16."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            if entry["dtype"] != "BF16":
                raise SystemExit(f"{path}: {name} is {entry['dtype']}, not BF16")
            begin, end = entry["data_offsets"]
            file.seek(start + begin)
            yield name, np.frombuffer(file.read(end - begin), dtype=np.uint16).reshape(entry["shape"])


def gguf_name(name):
    stem = name.removesuffix(".weight")
    if stem in WHOLE:
        return f"{WHOLE[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{LAYER[part]}.weight"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder with config.json and model.safetensors")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    config = json.loads((arguments.model / "config.json").read_text())
    if config["model_type"] not in ("olmo2", "olmo3"):
        raise SystemExit(f"{arguments.model}: {config['model_type']} is neither olmo2 nor olmo3")
    ropes = config["rope_parameters"]
    rope = ropes.get("full_attention", ropes)
    if rope["rope_type"] != "default":
        raise SystemExit(f"{arguments.model}: rope_type {rope['rope_type']} is not written here")
    heads, kv_heads, vocab = config["num_attention_heads"], config["num_key_value_heads"], config["vocab_size"]

    writer = GGUFWriter(arguments.out, "olmo2")
    writer.add_name("bench")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if config["model_type"] == "olmo3":
        writer.add_sliding_window(config["sliding_window"])
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config["layer_types"]])
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = [f"t{index}" for index in range(vocab)]
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] + [TokenType.NORMAL] * (vocab - 1))
    writer.add_token_merges(["t 0"])
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    count = 0
    for name, bits in tensors(arguments.model / "model.safetensors"):
        count += bits.size
        if bits.ndim == 1:
            writer.add_tensor(gguf_name(name), (bits.astype(np.uint32) << 16).view(np.float32))
        else:
            writer.add_tensor(gguf_name(name), bits.view(np.uint8), raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    print(f"{arguments.out}: {count / 1e6:.1f} M parameters, {config['model_type']} as olmo2")


if __name__ == "__main__":
    main()
