#!/usr/bin/env python3
"""Writes a random OLMo-3-shaped model to measure speed with, and everything a rollout of it needs.

    python make_bench_model.py --out DIR                       # 98 M parameters, f32
    python make_bench_model.py --out DIR --hidden 64 --heads 4 --intermediate 96 --layers 8 --vocab 1024   # a toy

DIR then holds
  model/            the checkpoint, with tokenizer and chat template
  transcript.json   18 turns, or --turns; besides `conversation`, `conditions` for `transformers_rollouts.py`
  axis.safetensors  a random direction, in tiltmeter's axis format
  bench.yaml        the experiment

Two properties make the workload the same for everyone who runs it:

Replies have exactly `max_new_tokens` tokens. Channel 0 of the residual stream is the same positive number at every token and
layer: the embedding sets it, and the weights of both post-norms are zero there. The head's rows of all tokens that are no word
(specials, single bytes) hold nothing but a large negative number in that channel, so their logits lie far below any word's and a
stop token is never drawn, at any temperature in use.

Replies survive being text. Every token that can be drawn is a blank and a made-up word, the vocabulary holds the whole of it
(`ignore_merges`), and words are split at blanks; so tokenising a reply again gives the ids that were drawn.
"""

import argparse
import hashlib
import itertools
import json
import random
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import GenerationConfig, Olmo3Config, Olmo3ForCausalLM, PreTrainedTokenizerFast

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"]
ROLES = ["system", "user", "assistant"]
WORDS_PER_USER_TURN = 39
CONSTANT = 4.0
"""Channel 0 of the residual stream."""
REPEL = -40.0
"""Channel 0 of the head's rows that must never win."""

WORDS = """
keep about after along anchor and at barrel basket before bell below bench blue boat bread bridge bright buoy by calm candle carry chart
clear cloud coast coffee cold copper count day deck deep door drift east evening far ferry fire flag floor fog for garden gate gentle
grain green gull harbour have hear hill hold horn hour house how in island jetty kettle knot ladder lamp lantern light line list log
long look low map mast mend mill moon morning net night noon north note oak oar of on open orchard paint paper path pier plain pot quay
quiet rain read ring river road roof room rope row sail salt sand sea shore slow small south spoon spring square stair star stone
story street summer sun table tea tell the then thread tide time to tower town tree turn under until valley wait walk wall warm water
wave west what wheel when where white why wind window winter with wood write yellow
""".split()

TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

CONDITIONS = [
    {"label": "baseline", "system_prompt": None, "placement": "start"},
    {"label": "start", "system_prompt": "hold the line and write the log until the morning", "placement": "start"},
    {"label": "reminder", "system_prompt": "keep to the log", "placement": "after_each_user"},
]


def made_up_words():
    """Pronounceable words of three syllables, none of WORDS, in a fixed order that mixes the syllables."""
    syllables = ["".join(pair) for pair in itertools.product("bdklmnrtv", "aeiou")]
    words = ["".join(triple) for triple in itertools.product(syllables, repeat=3)]
    random.Random(0).shuffle(words)
    return [word for word in words if word not in WORDS]


def build_tokenizer(vocab_size):
    """A byte-level BPE without merges, whose words are found whole. Returns it and the ids that may be drawn."""
    tokens = list(SPECIALS) + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens += ROLES + [form for word in WORDS for form in (word, "\u0120" + word)]
    room = vocab_size - len(tokens)
    if room < 64:
        raise SystemExit(f"a vocabulary of {vocab_size} leaves no room for words; at least {len(tokens) + 64}")
    drawable = range(len(tokens), vocab_size)
    tokens += ["\u0120" + word for word in made_up_words()[:room]]
    tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[], ignore_merges=True))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r" ?[A-Za-z]+|[^A-Za-z]"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|pad|>", clean_up_tokenization_spaces=False
    )
    fast.chat_template = TEMPLATE
    assert len(fast) == vocab_size and tokenizer.get_vocab_size() == vocab_size
    return fast, drawable


def build_model(arguments, tokenizer, drawable):
    config = Olmo3Config(
        hidden_size=arguments.hidden, intermediate_size=arguments.intermediate, num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads, num_key_value_heads=arguments.kv_heads or arguments.heads, vocab_size=arguments.vocab,
        max_position_embeddings=arguments.max_positions, sliding_window=arguments.window, rms_norm_eps=1e-6, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"), pad_token_id=tokenizer.pad_token_id,
    )
    model = Olmo3ForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(arguments.seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.dim() == 1:
                post = "post_attention_layernorm" in name or "post_feedforward_layernorm" in name
                parameter.copy_((0.3 if post else 1.0) * (1.0 + 0.1 * torch.randn(parameter.shape, generator=generator)))
                if post:
                    parameter[0] = 0.0
                elif name.endswith("model.norm.weight"):
                    parameter[0] = 1.0
            else:
                std = 0.5 if "embed_tokens" in name else 0.02
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
        model.get_input_embeddings().weight[:, 0] = CONSTANT
        head = model.lm_head.weight
        head[:, 0] = 0.0
        head[: drawable.start] = 0.0
        head[: drawable.start, 0] = REPEL
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.convert_tokens_to_ids("<|im_end|>"), config.eos_token_id], pad_token_id=config.pad_token_id
    )
    return model.to(torch.bfloat16) if arguments.dtype == "bf16" else model


def build_transcript(seed, turns):
    """Fewer turns are the beginning of more."""
    rng = random.Random(seed)
    conversation = []
    for _ in range(turns):
        conversation.append({"role": "user", "content": " ".join(rng.choices(WORDS, k=WORDS_PER_USER_TURN)) + "?"})
        conversation.append({"role": "assistant", "content": " ".join(rng.choices(WORDS, k=24)) + "."})
    return {"conversation": conversation, "conditions": CONDITIONS}


def write_axis(path, arguments, site, weights):
    direction = torch.randn(arguments.hidden, generator=torch.Generator().manual_seed(arguments.seed + 1))
    direction[0] = 0.0  # the constant channel says nothing
    metadata = {
        "format": "tiltmeter-axis-v1", "name": "random", "method": "random", "n": "0", "sign": "none", "centring": "none",
        "model_fingerprint": f"sha256:{hashlib.sha256(weights.read_bytes()).hexdigest()}", "hidden_size": str(arguments.hidden),
        "num_layers": str(arguments.layers), "stats": "{}",
    }
    save_file({site: direction}, path, metadata=metadata)


def write_experiment(path, out, arguments, site):
    conditions = "\n".join(
        f"  - {{label: {c['label']}, system_prompt: {json.dumps(c['system_prompt'])}, placement: {c['placement']}}}"
        for c in CONDITIONS[: arguments.conditions]
    )
    path.write_text(
        f"""kind: projection
experiment: bench
model: {json.dumps(str(out / "model"))}
axis: {json.dumps(str(out / "axis.safetensors"))}
site: {site}
transcript: {json.dumps(str(out / "transcript.json"))}
conditions:
{conditions}
samples: 4
micro_batch: 4
seed: 42
sampling:
  temperature: 0.5
  max_new_tokens: 32
"""
    )


@torch.inference_mode()
def check(model, tokenizer, drawable):
    """Holds the two properties the file header promises against the model itself."""
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "ring the bell"}], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(ids, add_special_tokens=False, return_tensors="pt")["input_ids"]
    logits = model(input_ids=ids, use_cache=False).logits[0].float()
    margin = (logits[:, drawable.start :].amin(-1) - logits[:, : drawable.start].amax(-1)).min().item()
    assert margin > 20, f"words lie only {margin:.1f} above the tokens that must never be drawn"
    drawn = [random.Random(1).choice(drawable) for _ in range(200)]
    assert tokenizer(tokenizer.decode(drawn), add_special_tokens=False)["input_ids"] == drawn
    return margin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32", help="how the weights are stored")
    parser.add_argument("--turns", type=int, default=18, help="user turns in the transcript")
    parser.add_argument("--conditions", type=int, default=1, choices=range(1, len(CONDITIONS) + 1), help="conditions in bench.yaml")
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--intermediate", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--kv-heads", type=int, default=0, help="0: as many as heads")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--max-positions", type=int, default=4096)
    parser.add_argument("--site", default=None, help="default: two thirds up, block.7.out of 12")
    arguments = parser.parse_args()
    site = arguments.site or f"block.{max(arguments.layers * 2 // 3 - 1, 0)}.out"
    out = arguments.out.resolve()
    (out / "model").mkdir(parents=True, exist_ok=True)
    transformers.logging.set_verbosity_error()

    tokenizer, drawable = build_tokenizer(arguments.vocab)
    model = build_model(arguments, tokenizer, drawable)
    model.save_pretrained(out / "model", max_shard_size="100GB")
    tokenizer.save_pretrained(out / "model")
    (out / "transcript.json").write_text(json.dumps(build_transcript(arguments.seed, arguments.turns), indent=1) + "\n")
    write_axis(out / "axis.safetensors", arguments, site, out / "model" / "model.safetensors")
    write_experiment(out / "bench.yaml", out, arguments, site)
    margin = check(model, tokenizer, drawable)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{out}: {count / 1e6:.1f} M parameters, {len(drawable)} words to draw, {margin:.0f} logits above the rest; site {site}")


if __name__ == "__main__":
    main()
