#!/usr/bin/env python3
"""Writes the parity fixtures: tiny random checkpoints, and what transformers makes of them.

    python make_parity_fixtures.py --out ../fixtures/parity            # writes what this transformers can write
    python make_parity_fixtures.py --out ../fixtures/parity --check    # recomputes every committed value

Every fixture is written by transformers itself, so run the first line once with transformers 4.57.x (it writes the
recipes marked `written_by: 4`, whose config.json has `rope_theta` and `rope_scaling` as the checkpoints on the hub do)
and once with 5.6 or newer (`written_by: 5`, `rope_parameters`). `--check` runs with either and reads every form.

The reference is eager attention in float32 on one thread. For olmo3 the versions 5.0 to 5.5 apply YaRN to every layer
and are refused. 5.x's own reading of a legacy olmo3 config gives the sliding layers the default theta (500000) whatever
`rope_theta` says, so `load_config` here spells the parameters out instead.

A fixture holds, beside the checkpoint:
  expected.json         versions, messages, rendered prompts, token ids, greedy replies, norms of every site
  expected.safetensors  input_ids [T], generated_ids [n], embed, block.{i}.out, final_norm [T, d], logits_tail [24, V]
for one sequence of T tokens: the last turn's prompt followed by the tokens generated for it.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast
from transformers import LlamaConfig, LlamaForCausalLM, Olmo2Config, Olmo2ForCausalLM, Olmo3Config, Olmo3ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from parity_recipes import CORPUS, RECIPES, STALE_TEMPLATE

MAX_NEW_TOKENS = 24
LOGITS_TAIL = 24
MIN_TOP2_GAP = 5e-3
MIN_DISTINCT_TOKENS = 10
"""A greedy reply that loops on a few tokens would test little."""
MAX_CONDITIONING = 0.3
"""How much of the gate (1e-6 * |h| * L) two equally right evaluations may use up: sdpa against eager, and float32 against a
one-ulp change of the embeddings."""

FAMILIES = {
    "olmo3": (Olmo3Config, Olmo3ForCausalLM),
    "olmo2": (Olmo2Config, Olmo2ForCausalLM),
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])
MAJOR = VERSION[0]

# ----------------------------------------------------------------------------------------------------------- tokenizers

TOKENIZERS = {
    # name: (special tokens, bos, eos, pad, pre-tokenizer, all 256 bytes, bos added by the post-processor)
    "chatml_split": (["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"], None, "<|endoftext|>", "<|pad|>", "split", False),
    "chatml": (["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>"], None, "<|endoftext|>", "<|pad|>", "gpt2", False),
    "plain": (["<|endoftext|>", "<|pad|>"], None, "<|endoftext|>", "<|pad|>", "gpt2", False),
    "header": (["<|begin|>", "<|endoftext|>", "<|head|>", "<|body|>", "<|done|>"], "<|begin|>", "<|done|>", "<|endoftext|>", "split", False),
    "header_bytes": (["<|begin|>", "<|endoftext|>", "<|head|>", "<|body|>", "<|done|>"], "<|begin|>", "<|done|>", "<|endoftext|>", "gpt2", True),
}
WORDS = r"'[a-z]{1,2}\b| ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"


def build_tokenizer(kind, model_vocab, spare):
    """A byte-level BPE trained on CORPUS; `spare` rows of the model's vocabulary are left without a token."""
    specials, bos, eos, pad, splitter, all_bytes = TOKENIZERS[kind]
    tokenizer = Tokenizer(models.BPE())
    if splitter == "split":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(WORDS), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    ascii_only = [byte_symbol(byte) for byte in (10, *range(32, 127))]
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=model_vocab - spare,
            special_tokens=[AddedToken(token, special=True, normalized=False) for token in specials],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if all_bytes else ascii_only,
            min_frequency=1,
            show_progress=False,
        ),
    )
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    names = {"eos_token": eos, "pad_token": pad} | ({"bos_token": bos} if bos else {})
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)


def byte_symbol(byte):
    """The character by which byte-level BPE writes a byte: printable ones stand for themselves, the rest move up."""
    if 33 <= byte <= 126:
        return chr(byte)
    return chr(256 + byte) if byte <= 32 else chr(byte)


# ------------------------------------------------------------------------------------------------------------ checkpoint


def rope_keys(family, rope, layer_types=None):
    """The rope section of a config in the form that the running transformers itself writes."""
    theta, scaling = rope["theta"], rope["scaling"]
    if MAJOR < 5:
        return {"rope_theta": theta, "rope_scaling": dict(scaling) if scaling else None}
    plain = {"rope_type": "default", "rope_theta": theta}
    scaled = {**scaling, "rope_theta": theta} if scaling else dict(plain)
    if family == "olmo3":
        return {"rope_parameters": {"sliding_attention": plain, "full_attention": scaled}}
    return {"rope_parameters": scaled}


def one_or_many(ids):
    return ids[0] if len(ids) == 1 else ids


def write_checkpoint(folder, recipe, seed):
    config_class, model_class = FAMILIES[recipe["family"]]
    vocab = recipe["config"]["vocab_size"]
    spare = 9 if recipe["family"] == "olmo2" else 0
    tokenizer = build_tokenizer(recipe["tokenizer"], vocab, spare)
    ids_of = lambda tokens: one_or_many([tokenizer.convert_tokens_to_ids(token) for token in tokens])
    config = config_class(
        **recipe["config"], **rope_keys(recipe["family"], recipe["rope"]), bos_token_id=tokenizer.bos_token_id,
        eos_token_id=ids_of(recipe["config_eos"]), pad_token_id=tokenizer.pad_token_id,
        **({"tie_word_embeddings": False} if "tie_word_embeddings" not in recipe["config"] else {}),
    )
    model = model_class(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            std = recipe["std"] * (recipe.get("qk", 1.0) if "q_proj" in name or "k_proj" in name else 1.0)
            parameter.copy_(1.0 + 0.2 * noise if parameter.dim() == 1 else std * noise)
        if not config.tie_word_embeddings:
            # Ids without text, bytes that are no text alone and control characters get the logit 0. (Python's str.strip
            # removes U+001C to U+001F, other languages' trims do not: that is no difference to test by accident.)
            for token in range(vocab):
                text = tokenizer.decode([token]) if token < len(tokenizer) else "\ufffd"
                if "\ufffd" in text or not text.replace("\n", "").isprintable():
                    model.lm_head.weight[token] = 0.0
    if recipe.get("bf16"):
        model = model.to(torch.bfloat16)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ids_of(recipe["generation_eos"]),
        pad_token_id=tokenizer.pad_token_id, **recipe["generation"],
    )
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    shard = f"{int(size / recipe['shards'] / 1000 * 1.12)}KB" if "shards" in recipe else "50MB"
    model.save_pretrained(folder, safe_serialization=True, max_shard_size=shard) if MAJOR < 5 else model.save_pretrained(
        folder, max_shard_size=shard
    )
    tokenizer.save_pretrained(folder)
    for key in recipe.get("config_without", ()):
        path = folder / "config.json"
        config_json = json.loads(path.read_text())
        config_json.pop(key)
        path.write_text(json.dumps(config_json, indent=2, sort_keys=True) + "\n")
    place_template(folder, recipe)


def place_template(folder, recipe):
    """Puts the chat template where the recipe wants it: both places exist in the wild, and the file beside wins."""
    path = folder / "tokenizer_config.json"
    tokenizer_config = json.loads(path.read_text())
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer_config.pop("chat_template", None)
    if recipe["template_in"] == "chat_template.jinja":
        (folder / "chat_template.jinja").write_text(recipe["template"])
        if recipe.get("stale_template"):
            tokenizer_config["chat_template"] = STALE_TEMPLATE
    else:
        tokenizer_config["chat_template"] = recipe["template"]
    path.write_text(json.dumps(tokenizer_config, indent=2, ensure_ascii=False) + "\n")


def load_config(folder, family):
    """The config with the rope parameters spelled out for the running version, whichever form the file has."""
    raw = json.loads((folder / "config.json").read_text())
    parameters = raw.pop("rope_parameters", None)
    if parameters is None:
        scaling, theta = raw.pop("rope_scaling", None), raw.pop("rope_theta")
    else:
        scaling = dict(parameters.get("full_attention", parameters))
        theta = scaling.pop("rope_theta")
        assert parameters.get("sliding_attention", {}).get("rope_theta", theta) == theta
        if scaling["rope_type"] == "default":
            scaling = None
    for key in ("architectures", "model_type", "transformers_version", "torch_dtype", "dtype"):
        raw.pop(key, None)
    return FAMILIES[family][0](**raw, **rope_keys(family, dict(theta=theta, scaling=scaling)))


def load_model(folder, family, attention="eager"):
    model = FAMILIES[family][1].from_pretrained(
        folder, config=load_config(folder, family), dtype=torch.float32, attn_implementation=attention
    )
    return model.float().eval()


# ------------------------------------------------------------------------------------------------------------- reference


def stop_token_ids(folder):
    """The union of what config.json and generation_config.json name."""
    ids = []
    for name in ("config.json", "generation_config.json"):
        eos = json.loads((folder / name).read_text()).get("eos_token_id")
        ids += eos if isinstance(eos, list) else [eos] if eos is not None else []
    return sorted(set(ids))


@torch.no_grad()
def hidden_states(model, ids, embed_scale=None):
    """One cold pass: every site by its name, and the logits."""
    blocks, hooks = {}, []
    for index, layer in enumerate(model.model.layers):
        def keep(_module, _inputs, output, index=index):
            blocks[index] = (output[0] if isinstance(output, tuple) else output)[0].detach().clone()
        hooks.append(layer.register_forward_hook(keep))
    tokens = torch.tensor([ids])
    embeds = model.get_input_embeddings()(tokens)
    if embed_scale is not None:
        embeds = embeds * embed_scale
    out = model(inputs_embeds=embeds, output_hidden_states=True, use_cache=False)
    for hook in hooks:
        hook.remove()
    count = len(model.model.layers)
    assert len(out.hidden_states) == count + 1
    for index in range(count - 1):  # the convention itself: hidden_states[i + 1] is the output of block i ...
        assert torch.equal(out.hidden_states[index + 1][0], blocks[index])
    assert torch.equal(model.model.norm(blocks[count - 1]), out.hidden_states[count][0])  # ... but the last is normed
    sites = {"embed": out.hidden_states[0][0]}
    sites |= {f"block.{index}.out": blocks[index] for index in range(count)}
    sites["final_norm"] = out.hidden_states[count][0]
    return {name: value.clone().contiguous() for name, value in sites.items()}, out.logits[0].clone()


@torch.no_grad()
def greedy(model, ids, stops, pad):
    """transformers' own greedy generation (with its KV cache), and each step's gap between the best two logits."""
    tokens = torch.tensor([ids])
    out = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), do_sample=False, temperature=None, top_p=None, top_k=None, max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=stops, pad_token_id=pad, use_cache=True, return_dict_in_generate=True, output_logits=True,
    )
    generated = out.sequences[0, len(ids):].tolist()
    gaps = [(top[0] - top[1]).item() for top in (step[0].topk(2).values for step in out.logits)]
    return generated, gaps


def shared_prefix(left, right):
    count = 0
    while count < min(len(left), len(right)) and left[count] == right[count]:
        count += 1
    return count


def rollout(folder, recipe):
    """Three turns: the reply goes into the next prompt as text, and that prompt is rendered and tokenised anew."""
    model = load_model(folder, recipe["family"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    stops = stop_token_ids(folder)
    messages = [{"role": "system", "content": recipe["system"]}] if recipe["system"] is not None else []
    turns, previous = [], []
    for text in recipe["user_turns"]:
        messages.append({"role": "user", "content": text})
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(rendered, add_special_tokens=False)["input_ids"]
        generated, gaps = greedy(model, ids, stops, tokenizer.pad_token_id)
        reply = tokenizer.decode(generated, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        closed = messages + [{"role": "assistant", "content": reply}]
        turns.append({
            "messages": [dict(message) for message in messages],
            "rendered": rendered,
            "input_ids": ids,
            "generated_ids": generated,
            "finish": "stop" if generated[-1] in stops else "length",
            "reply": reply,
            "rendered_with_reply": tokenizer.apply_chat_template(closed, tokenize=False, add_generation_prompt=False),
            "reply_retokenises_to_itself": tokenizer(reply, add_special_tokens=False)["input_ids"]
            == [token for token in generated if token not in tokenizer.all_special_ids],
            "tokens_shared_with_previous_turn": shared_prefix(previous, ids),
            "top2_logit_gap_min": min(gaps),
        })
        previous = ids + generated
        messages = closed
    sites, logits = hidden_states(model, previous)
    assert logits[len(turns[-1]["input_ids"]) - 1 : -1].argmax(-1).tolist() == turns[-1]["generated_ids"], "cached and cold passes differ"
    return turns, stops, sites, logits


def share_of_gate(reference, other):
    """max |delta| / (1e-6 * |h| * L) over sites and positions; |h| is the position's L2 norm."""
    layers = len(reference) - 2
    return max(
        ((reference[site] - other[site]).abs().amax(-1) / (1e-6 * reference[site].norm(dim=-1) * layers)).max().item() for site in reference
    )


def conditioning(folder, recipe, ids, sites):
    """How far two right answers lie apart here, in shares of the gate."""
    sdpa, _ = hidden_states(load_model(folder, recipe["family"], "sdpa"), ids)
    nudged, _ = hidden_states(load_model(folder, recipe["family"]), ids, embed_scale=1.0 + 2.0**-23)
    return {"sdpa": share_of_gate(sites, sdpa), "one_ulp": share_of_gate(sites, nudged)}


def unfit(recipe, turns):
    """Why a seed is not fit to be a fixture, or None."""
    for number, turn in enumerate(turns, 1):
        if turn["top2_logit_gap_min"] < MIN_TOP2_GAP:
            return f"turn {number}: two logits only {turn['top2_logit_gap_min']:.1e} apart"
        if "\ufffd" in turn["reply"] or not turn["reply"].strip():
            return f"turn {number}: reply is no text"
        if len(set(turn["generated_ids"])) < min(MIN_DISTINCT_TOKENS, len(turn["generated_ids"])):
            return f"turn {number}: reply loops"
        if len(turn["generated_ids"]) < 8:
            return f"turn {number}: only {len(turn['generated_ids'])} tokens"
    stopped = any(turn["finish"] == "stop" for turn in turns)
    if stopped != recipe.get("wants_stop", False):
        return "stops early" if stopped else "never stops early"
    return None


def versions():
    return {
        "python": platform.python_version(), "torch": torch.__version__.split("+")[0], "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__, "attention": "eager", "dtype": "float32", "threads": torch.get_num_threads(),
    }


def write_fixture(root, name, recipe):
    for seed in range(recipe["seed"], recipe["seed"] + 400):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_checkpoint(folder, recipe, seed)
            turns, stops, sites, logits = rollout(folder, recipe)
            last = turns[-1]["input_ids"] + turns[-1]["generated_ids"]
            reason = unfit(recipe, turns)
            noise = conditioning(folder, recipe, last, sites) if reason is None else {"sdpa": 0.0}
            if max(noise.values()) > MAX_CONDITIONING:
                reason = f"ill-conditioned: {noise}"
            if reason:
                print(f"{name}: seed {seed} refused, {reason}", file=sys.stderr)
                continue
            tensors = {site: value.float() for site, value in sites.items()}
            tensors |= {
                "input_ids": torch.tensor(last), "generated_ids": torch.tensor(turns[-1]["generated_ids"]),
                "logits_tail": logits[-LOGITS_TAIL:].float().contiguous(),
            }
            save_file(tensors, folder / "expected.safetensors", metadata={"format": "tiltmeter-parity-v1", "fixture": name})
            expected = {
                "fixture": name, "about": recipe["about"], "versions": versions(), "seed": seed, "init_std": recipe["std"],
                "family": recipe["family"], "num_layers": recipe["config"]["num_hidden_layers"], "hidden_size": recipe["config"]["hidden_size"],
                "stop_token_ids": stops, "max_new_tokens": MAX_NEW_TOKENS, "system": recipe["system"], "user_turns": recipe["user_turns"],
                "turns": turns,
                "sequence": {
                    "what": "input_ids of the last turn followed by its generated_ids; every tensor of expected.safetensors is for it",
                    "tokens": len(last), "prompt_tokens": len(turns[-1]["input_ids"]), "sliding_window": recipe["config"].get("sliding_window"),
                    "logits": f"logits_tail holds the last {LOGITS_TAIL} positions",
                },
                "gate": "max |delta| at a position <= 1e-6 * |h| * num_layers, |h| the L2 norm of the position; logits likewise with their own norm",
                "share_of_gate_between_right_answers": noise,
                "norms": {
                    site: {"mean": value.norm(dim=-1).mean().item(), "max": value.norm(dim=-1).max().item()}
                    for site, value in (sites | {"logits": logits}).items()
                },
            }
            (folder / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
            target = root / name
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder, target)
            for path in (target, *target.iterdir()):
                path.chmod(0o755 if path.is_dir() else 0o644)
            size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
            print(f"{name}: seed {seed}, {len(last)} tokens, {size / 1000:.0f} kB, gaps >= {min(t['top2_logit_gap_min'] for t in turns):.1e}, noise {noise}")
            return
    sys.exit(f"{name}: no seed fits")


def check_fixture(root, name, recipe):
    """Recomputes a committed fixture; returns the share of the gate used up by the difference."""
    folder = root / name
    expected = json.loads((folder / "expected.json").read_text())
    stored = load_file(folder / "expected.safetensors")
    turns, stops, sites, logits = rollout(folder, recipe)
    assert stops == expected["stop_token_ids"], name
    for new, old in zip(turns, expected["turns"], strict=True):
        for key in ("messages", "rendered", "rendered_with_reply", "input_ids", "generated_ids", "reply", "finish"):
            assert new[key] == old[key], f"{name}: {key} differs\n{new[key]!r}\n{old[key]!r}"
    share = share_of_gate({site: stored[site] for site in sites}, sites)
    tail, layers = stored["logits_tail"], expected["num_layers"]
    logit_share = ((tail - logits[-LOGITS_TAIL:]).abs().amax(-1) / (1e-6 * tail.norm(dim=-1) * layers)).max().item()
    print(f"{name}: ids, texts and replies equal; hidden states {share:.3g} of the gate, logits {logit_share:.3g} (written by {expected['versions']['transformers']})")
    assert max(share, logit_share) <= 1.0, name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder of the fixtures")
    parser.add_argument("--check", action="store_true", help="recompute and compare instead of writing")
    parser.add_argument("--only", nargs="*", help="names of fixtures")
    arguments = parser.parse_args()
    if (5, 0) <= VERSION <= (5, 5):
        sys.exit(f"transformers {transformers.__version__} applies YaRN to every olmo3 layer; use 4.57.x, or 5.6 and newer")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name, recipe in RECIPES.items():
        if arguments.only and name not in arguments.only:
            continue
        if arguments.check:
            check_fixture(arguments.out, name, recipe)
        elif recipe["written_by"] == (5 if MAJOR >= 5 else 4):
            arguments.out.mkdir(parents=True, exist_ok=True)
            write_fixture(arguments.out, name, recipe)


if __name__ == "__main__":
    main()
