"""Writes a tiny random Llama as GGUF, tokenizer and chat template included, for a real llama.cpp server to count tokens with.

The tokenizer is byte-level BPE with merges learned from the few sentences below, so that a token is neither a byte nor a word and a
wrong count cannot pass by luck. The weights are random, but dimension 0 of every embedding is a constant that the output rows of
unprintable tokens turn into a large negative logit: replies are ASCII, and read back as they were said.

    pip install gguf
    python make_tiny_gguf.py tiny.gguf
"""

import argparse
import re
from collections import Counter

import numpy as np
from gguf import GGUFWriter, TokenType

N_LAYERS, N_EMBD, N_HEADS, N_KV_HEADS, N_FF, N_CTX = 2, 64, 4, 2, 128, 4096
N_MERGES = 250
END = "<|im_end|>"
CONTROL = ["<|endoftext|>", "<|im_start|>", END]
TEXT = """The harbour master keeps the books. A barge was entered twice, and nobody has noticed it yet. Would you tell the owner
before he asks, or wait until the end of the month? I would rather say the whole of it now than leave it to be found out later.
You are the one who answers for the numbers; what you write there is what the others believe."""
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_names() -> list[str]:
    """GPT-2's printable stand-in for each byte."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    names, spare = {}, 256
    for byte in range(256):
        names[byte] = chr(byte) if byte in kept else chr(spare)
        spare += byte not in kept
    return [names[byte] for byte in range(256)]


def learn_merges(names: list[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding (Sennrich et al. 2016) within words, each with the space before it."""
    pieces = Counter(tuple(names[byte] for byte in word.encode()) for word in re.findall(r" ?[A-Za-z]+", " ".join(TEXT.split())))
    merges = []
    for _ in range(N_MERGES):
        pairs = Counter()
        for word, count in pieces.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        merged = Counter()
        for word, count in pieces.items():
            joined, at = [], 0
            while at < len(word):
                step = 2 if word[at : at + 2] == best else 1
                joined.append("".join(word[at : at + step]))
                at += step
            merged[tuple(joined)] += count
        pieces = merged
    return merges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()

    names = byte_names()
    merges = learn_merges(names)
    tokens = names + [left + right for left, right in merges] + CONTROL
    spoken = [index for index, token in enumerate(tokens) if re.fullmatch(r"[Ġ!-~]+", token) and token not in CONTROL]

    rng = np.random.default_rng(arguments.seed)

    def random(*shape: int, scale: float) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    embeddings = random(len(tokens), N_EMBD, scale=1.0)
    embeddings[:, 0] = 4.0
    output = random(len(tokens), N_EMBD, scale=0.35)
    output[:, 0] = -8.0
    output[spoken, 0] = 0.0
    # Likely enough that some replies end by themselves and others at their limit.
    output[tokens.index(END), 0] = 0.35

    writer = GGUFWriter(arguments.out, "llama")
    writer.add_name("tiny")
    writer.add_block_count(N_LAYERS)
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_KV_HEADS)
    writer.add_rope_dimension_count(N_EMBD // N_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * (len(tokens) - len(CONTROL)) + [TokenType.CONTROL] * len(CONTROL))
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_bos_token_id(tokens.index(CONTROL[0]))
    writer.add_eos_token_id(tokens.index(END))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)

    writer.add_tensor("token_embd.weight", embeddings)
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", np.ones(N_EMBD, dtype=np.float32))
    width = N_EMBD * N_KV_HEADS // N_HEADS
    shapes = {
        "attn_q": (N_EMBD, N_EMBD), "attn_k": (width, N_EMBD), "attn_v": (width, N_EMBD), "attn_output": (N_EMBD, N_EMBD),
        "ffn_gate": (N_FF, N_EMBD), "ffn_up": (N_FF, N_EMBD), "ffn_down": (N_EMBD, N_FF),
    }  # fmt: skip
    for layer in range(N_LAYERS):
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", np.ones(N_EMBD, dtype=np.float32))
        for name, shape in shapes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", random(*shape, scale=0.6 * shape[1] ** -0.5))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
