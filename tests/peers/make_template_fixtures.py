"""Writes the goldens of tests/fixtures/templates/: what transformers makes of our templates, of a small tokenizer, and of RoPE configs.

    renderings.json   apply_chat_template(tokenize=False) of every *.jinja there on every conversation below, or its refusal
    tokenizer.json    a byte-level BPE trained on the lines below, with the traps real ones have (BOS added by the post-processor,
                      trimmed offsets, truncation, padding)
    tokens.json       its ids and decodings, by transformers
    rope.json         inverse frequencies per layer, by the rotary embeddings of transformers' models

The templates themselves are ours; each uses the constructs of a family of published ones.

Run from the repository root:  python tests/peers/make_template_fixtures.py
Needs torch, transformers, tokenizers, jinja2; the versions used are in each file.
"""

import datetime
import json
import pathlib

import jinja2
import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.olmo2.modeling_olmo2 import Olmo2RotaryEmbedding
from transformers.models.olmo3.modeling_olmo3 import Olmo3RotaryEmbedding
from transformers.utils import chat_template_utils

FOLDER = pathlib.Path("tests/fixtures/templates")
VERSIONS = {
    "transformers": transformers.__version__,
    "tokenizers": tokenizers.__version__,
    "jinja2": jinja2.__version__,
    "torch": torch.__version__,
}
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|begin|>", "<|header|>", "<|/header|>", "<|end|>", "<|pad|>"]

S, U, A = "system", "user", "assistant"
CONVERSATIONS = {
    "one": [(U, "Hello there")],
    "briefed": [(S, "Be brief."), (U, "Hello there")],
    "answered": [(U, "Hello there"), (A, "Hello.")],
    "long": [(S, "Be brief."), (U, "One"), (A, "Two"), (U, "Three"), (A, "Four"), (U, "Five")],
    "after_each_user": [(U, "One"), (S, "Be kind."), (A, "Two"), (U, "Three"), (S, "Be kind.")],
    "blanks": [(S, "  Be brief.\n"), (U, "\n\n Hello  there \n"), (A, " \tHi \n\n"), (U, "  ")],
    "nothing": [(U, "")],
    "hollow": [(S, ""), (U, "Say nothing"), (A, ""), (U, "Again")],
    "marked_up": [(U, "<b>\"Tom\" & 'Jerry'</b> {{ 7 * 7 }} {% if %} \\n C:\\x"), (A, "a < b > c"), (U, "é")],
    "scripts": [(U, "Grüße, 世界! 👩‍🚀 e\u0301 \u00a0 ع"), (A, "日本語\u2028と🎉"), (U, "नमस्ते")],
    "repeating": [(S, "user"), (U, "user"), (A, "assistant"), (U, "user\nuser"), (A, "user"), (U, "user")],
    "musing": [(U, "Why?"), (A, "<think>\nHm, hm.\n</think>\n\nBecause."), (U, "Really?"), (A, "<think>Yes</think>So.")],
    "two_users": [(U, "One"), (U, "Two"), (A, "Three")],
    "three_turns": [(U, "Hi"), (A, "skip"), (U, "Bye"), (A, "Bye."), (U, "stop"), (A, "unseen")],
}


class PinnedDay(datetime.datetime):
    """The day a template's strftime_now tells."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


def messages_of(name):
    return [{"role": role, "content": content} for role, content in CONVERSATIONS[name]]


def write(name, content):
    text = json.dumps({"versions": VERSIONS, **content}, indent=1, ensure_ascii=False)
    (FOLDER / name).write_text(text + "\n", encoding="utf-8")


def train_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    lines = [content for turns in CONVERSATIONS.values() for _, content in turns] * 3
    lines += ["user\n", "assistant\n", "system\nYou answer in one breath. You call nothing.\n"] * 3
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]),
        ]
    )
    plain = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.to_str()),
        bos_token="<|begin|>",
        eos_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.enable_truncation(12)
    tokenizer.enable_padding(length=16, pad_id=tokenizer.token_to_id("<|pad|>"), pad_token="<|pad|>")
    (FOLDER / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    return plain


def render(tokenizer, source, messages, prompt):
    options = {"chat_template": source, "tokenize": False, "add_generation_prompt": prompt}
    try:
        text = tokenizer.apply_chat_template(messages, **options)
        return {"text": text}
    except jinja2.exceptions.TemplateError as error:
        return {"refusal": str(error)}


def renderings(tokenizer):
    cases = []
    for path in sorted(FOLDER.glob("*.jinja")):
        for name in CONVERSATIONS:
            for prompt in (False, True):
                result = render(tokenizer, path.read_text(encoding="utf-8"), messages_of(name), prompt)
                cases.append({"template": path.name, "conversation": name, "prompt": prompt, **result})
    special = {name: text for name, text in tokenizer.special_tokens_map.items() if isinstance(text, str)}
    return {
        "special_tokens": special,
        "conversations": {name: messages_of(name) for name in CONVERSATIONS},
        "cases": cases,
    }


def tokens(tokenizer):
    source = (FOLDER / "anemone.jinja").read_text(encoding="utf-8")
    cases = []
    for name in CONVERSATIONS:
        text = tokenizer.apply_chat_template(messages_of(name), chat_template=source, tokenize=False)
        ids = tokenizer.apply_chat_template(messages_of(name), chat_template=source, tokenize=True, return_dict=False)
        assert ids == tokenizer.encode(text, add_special_tokens=False)
        decoded = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        with_special = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        case = {"conversation": name, "text": text, "ids": ids, "decoded": decoded, "decoded_with_special": with_special}
        cases.append(case)
    return {"template": "anemone.jinja", "cases": cases}


def config(model_type, **more):
    base = {
        "model_type": model_type,
        "hidden_size": 512,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 65536,
    }
    return base | more


YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "attention_factor": 1.2079441541679836,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
THETA = {"rope_theta": 500000.0}
PLAIN = {"rope_type": "default"}
NESTED = {"full_attention": YARN | THETA, "sliding_attention": PLAIN | THETA}
# Each: our config.json, and, where transformers reads that form otherwise or not at all, the one that says the same to it.
ROPES = {
    "llama_plain": (config("llama"), None),
    "llama_theta": (config("llama", rope_theta=123456.0, head_dim=64), None),
    "llama_linear": (config("llama", rope_scaling={"type": "linear", "factor": 4.0}), None),
    "llama3_legacy": (config("llama", rope_theta=500000.0, rope_scaling=LLAMA3), None),
    "llama3_flat": (config("llama", rope_parameters=LLAMA3 | THETA), None),
    "llama3_small": (config("llama", rope_scaling=LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 64}), None),
    "llama_yarn_default": (config("llama", rope_scaling={"rope_type": "yarn", "factor": 4.0}), None),
    "llama_yarn_mscale": (
        config("llama", rope_scaling={"rope_type": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.707,
                                      "original_max_position_embeddings": 4096}),
        None,
    ),
    "llama_yarn_no_truncation": (
        config("llama", rope_scaling={"rope_type": "yarn", "factor": 16.0, "truncate": False, "beta_fast": 20,
                                      "beta_slow": 2, "original_max_position_embeddings": 4096}),
        None,
    ),
    "olmo2": (config("olmo2", rope_theta=500000.0, rope_scaling=None), None),
    "olmo3_legacy": (config("olmo3", sliding_window=4096, rope_theta=500000.0, rope_scaling=YARN), None),
    "olmo3_flat": (config("olmo3", rope_parameters=YARN | THETA), config("olmo3", rope_parameters=NESTED)),
    "olmo3_nested": (config("olmo3", rope_parameters=NESTED), None),
    "olmo3_types": (
        config("olmo3", layer_types=["full_attention", "sliding_attention"] * 2, rope_theta=500000.0, rope_scaling=YARN),
        None,
    ),
    "olmo3_plain": (config("olmo3", rope_theta=500000.0), None),
}
ROTARY = {"llama": LlamaRotaryEmbedding, "olmo2": Olmo2RotaryEmbedding, "olmo3": Olmo3RotaryEmbedding}


def ropes():
    cases = {}
    for name, (ours, theirs) in ROPES.items():
        # A copy, since transformers fills in the dicts it is given.
        said = json.loads(json.dumps(theirs or ours))
        kind = said.pop("model_type")
        read = AutoConfig.for_model(kind, **said)
        rotary = ROTARY[kind](read)
        layers = []
        for i in range(read.num_hidden_layers):
            prefix = f"{read.layer_types[i]}_" if kind == "olmo3" else ""
            frequencies = getattr(rotary, f"{prefix}inv_freq").float().tolist()
            scaling = getattr(rotary, f"{prefix}attention_scaling")
            layers.append({"attention_scaling": scaling, "window": window(read, i), "inv_freq": frequencies})
        distinct = [layer for i, layer in enumerate(layers) if layer not in layers[:i]]
        cases[name] = {"config": ours, "layers": [distinct.index(layer) for layer in layers], "distinct": distinct}
    return {"cases": cases}


def window(read, layer):
    kinds = getattr(read, "layer_types", None)
    return read.sliding_window if kinds and kinds[layer] == "sliding_attention" else None


def main():
    chat_template_utils.datetime = PinnedDay
    tokenizer = train_tokenizer()
    write("renderings.json", renderings(tokenizer))
    write("tokens.json", tokens(tokenizer))
    write("rope.json", ropes())


main()
