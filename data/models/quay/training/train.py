"""Train the quay model from scratch on two CPU cores and write it in Hugging Face's layout.

    python train.py --steps 850 --seed 7

The number of steps is fixed, not the time, so that a run can be repeated.  Sliding layers are
computed block by block (a query's window lies in its own block and the one before), without a dense
mask over the whole conversation; `evaluate.py --check-logits` compares the result with transformers.
"""
import argparse
import hashlib
import json
import math
import os
import random
import tempfile
import time

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import corpus

SPECIALS = ["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>"]
EOT, PAD, IM_START, IM_END = range(4)
TEMPLATE = ("{%- for message in messages -%}\n"
            "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}\n"
            "{%- endfor -%}\n"
            "{%- if add_generation_prompt -%}\n"
            "{{- '<|im_start|>assistant\\n' -}}\n"
            "{%- endif -%}\n")
CONFIG = dict(
    architectures=["Olmo3ForCausalLM"], model_type="olmo3", vocab_size=1536, hidden_size=128,
    intermediate_size=352, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=4,
    hidden_act="silu", max_position_embeddings=4096, initializer_range=0.02, rms_norm_eps=1e-6,
    use_cache=True, tie_word_embeddings=False, rope_theta=500000.0, rope_scaling=None,
    attention_bias=False, attention_dropout=0.0, sliding_window=256,
    layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * 2,
    bos_token_id=None, eos_token_id=IM_END, pad_token_id=PAD, torch_dtype="bfloat16")


class RMSNorm(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x):
        y = x.float()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + CONFIG["rms_norm_eps"])
        return (self.weight * y).to(x.dtype)


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


def local_attention(q, k, v, window):
    """Causal attention over the last `window` keys, in blocks of `window`; [B, H, T, D]."""
    b, h, t, d = q.shape
    if t <= window:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    n = -(-t // window)
    q, k, v = (F.pad(x, (0, 0, 0, n * window - t)).reshape(b, h, n, window, d) for x in (q, k, v))

    def with_previous(x):
        return torch.cat((F.pad(x, (0, 0, 0, 0, 1, 0))[:, :, :-1], x), 3)

    i = torch.arange(window)[:, None] + window
    j = torch.arange(2 * window)[None]
    mask = ((j <= i) & (i - j < window)).expand(n, -1, -1).clone()
    mask[0, :, :window] = False

    def fold(x):
        return x.permute(0, 2, 1, 3, 4).reshape(b * n, h, x.shape[3], d)

    y = F.scaled_dot_product_attention(fold(q), fold(with_previous(k)), fold(with_previous(v)),
                                       attn_mask=mask.repeat(b, 1, 1)[:, None])
    return y.reshape(b, n, h, window, d).permute(0, 2, 1, 3, 4).reshape(b, h, n * window, d)[:, :, :t]


class Attention(nn.Module):
    def __init__(self, kind):
        super().__init__()
        d = CONFIG["hidden_size"]
        self.kind = kind
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.q_norm, self.k_norm = RMSNorm(d), RMSNorm(d)

    def forward(self, x, cos, sin):
        b, t, d = x.shape
        h = CONFIG["num_attention_heads"]
        q, k = self.q_norm(self.q_proj(x)), self.k_norm(self.k_proj(x))
        q, k, v = (y.view(b, t, h, d // h).transpose(1, 2) for y in (q, k, self.v_proj(x)))
        q, k = rope(q, cos, sin).to(v.dtype), rope(k, cos, sin).to(v.dtype)
        if self.kind == "full_attention":
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = local_attention(q, k, v, CONFIG["sliding_window"])
        return self.o_proj(y.transpose(1, 2).reshape(b, t, d))


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        d, m = CONFIG["hidden_size"], CONFIG["intermediate_size"]
        self.gate_proj, self.up_proj = nn.Linear(d, m, bias=False), nn.Linear(d, m, bias=False)
        self.down_proj = nn.Linear(m, d, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """OLMo 2/3 block: no norm before, one after attention and one after the MLP."""

    def __init__(self, kind):
        super().__init__()
        self.self_attn, self.mlp = Attention(kind), MLP()
        self.post_attention_layernorm = RMSNorm(CONFIG["hidden_size"])
        self.post_feedforward_layernorm = RMSNorm(CONFIG["hidden_size"])

    def forward(self, x, cos, sin):
        x = x + self.post_attention_layernorm(self.self_attn(x, cos, sin))
        return x + self.post_feedforward_layernorm(self.mlp(x))


class Quay(nn.Module):
    def __init__(self):
        super().__init__()
        d, v = CONFIG["hidden_size"], CONFIG["vocab_size"]
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(v, d)
        self.model.layers = nn.ModuleList(Layer(k) for k in CONFIG["layer_types"])
        self.model.norm = RMSNorm(d)
        self.lm_head = nn.Linear(d, v, bias=False)
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=CONFIG["initializer_range"])
        half = d // CONFIG["num_attention_heads"] // 2
        freq = CONFIG["rope_theta"] ** (-torch.arange(half).float() / half)
        angle = torch.outer(torch.arange(CONFIG["max_position_embeddings"]).float(), freq).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, ids, keep=None):
        """Logits; with `keep` (a mask) only at the kept positions."""
        t = ids.shape[1]
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, self.cos[:t], self.sin[:t])
        x = self.model.norm(x)
        return self.lm_head(x if keep is None else x[keep])


def train_tokenizer(texts):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=CONFIG["vocab_size"], special_tokens=SPECIALS, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(texts, trainer)
    return tok


def encode(tok, conversations):
    """[(ids, weights)]: weight 1 on a reply and its turn end, .1 on the user's words, else 0."""
    weight = {"assistant": 1.0, "user": 0.1, "system": 0.0}
    bodies = [m["content"] + "<|im_end|>" for c in conversations for m in c["messages"]]
    encoded = iter(tok.encode_batch(bodies, add_special_tokens=False))
    head = {r: tok.encode(f"<|im_start|>{r}\n", add_special_tokens=False).ids for r in weight}
    newline = tok.encode("\n").ids
    rows = []
    for c in conversations:
        ids, ws = [], []
        for m in c["messages"]:
            body = next(encoded).ids
            ids += head[m["role"]] + body + newline
            ws += [0.0] * len(head[m["role"]]) + [weight[m["role"]]] * len(body) + [0.0] * len(newline)
        rows.append((ids, ws))
    return rows


def batches(rows, tokens_per_batch, rng):
    """Rows of like length together, about tokens_per_batch tokens each with padding, in random order."""
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i][0]), rng.random()))
    out, group = [], []
    for i in order:
        if group and len(rows[i][0]) * (len(group) + 1) > tokens_per_batch:
            out.append(group)
            group = []
        group.append(i)
    out.append(group)
    rng.shuffle(out)
    return out


def collate(rows, group):
    t = max(len(rows[i][0]) for i in group)
    ids = torch.full((len(group), t), PAD)
    ws = torch.zeros(len(group), t)
    for r, i in enumerate(group):
        ids[r, :len(rows[i][0])] = torch.tensor(rows[i][0])
        ws[r, :len(rows[i][1])] = torch.tensor(rows[i][1])
    return ids, ws


def loss_of(model, ids, ws):
    """(sum of weighted losses, sum of weights)"""
    w = ws[:, 1:]
    keep = w > 0
    logits = model(ids[:, :-1], keep).float()
    ce = F.cross_entropy(logits, ids[:, 1:][keep], reduction="none")
    return (ce * w[keep]).sum(), w.sum()


def write(out, model, tok):
    os.makedirs(out, exist_ok=True)

    def dump(name, obj):
        with open(os.path.join(out, name), "w") as f:
            f.write(json.dumps(obj, indent=2) + "\n")

    tok.save(os.path.join(out, "tokenizer.json"))
    dump("config.json", CONFIG)
    dump("generation_config.json", dict(eos_token_id=[IM_END, EOT], pad_token_id=PAD))
    dump("tokenizer_config.json", dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token=None, eos_token="<|im_end|>", pad_token="<|pad|>",
        unk_token=None, add_prefix_space=False, clean_up_tokenization_spaces=False, model_max_length=4096,
        added_tokens_decoder={str(i): dict(content=s, lstrip=False, normalized=False, rstrip=False,
                                           single_word=False, special=True) for i, s in enumerate(SPECIALS)}))
    with open(os.path.join(out, "chat_template.jinja"), "w") as f:
        f.write(TEMPLATE)
    state = {k: v.detach().to(torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    path = os.path.join(out, "model.safetensors")
    save_file(state, path, metadata={"format": "pt"})
    print("sha256:" + hashlib.sha256(open(path, "rb").read()).hexdigest())


def worker(rank, args):
    """One of `--workers` single-threaded processes.

    Two processes that meet once a step are faster on a busy machine than one process with two
    threads, which meet at every operation.
    """
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    dist.init_process_group("gloo", init_method=f"file://{args.rendezvous}", rank=rank, world_size=args.workers)
    rng = random.Random(args.seed)
    start = time.time()
    held_out = corpus.generate(args.seed + 1000, 160)
    pool = corpus.generate(args.seed, int(args.steps * args.workers * args.tokens_per_batch / 480) + 300)
    tok = train_tokenizer(corpus.render(c["messages"]) for c in pool[:6000])
    rows, val = encode(tok, pool), encode(tok, held_out)
    plan = batches(rows, args.tokens_per_batch, rng)

    def say(*words):
        if rank == 0:
            print(*words, flush=True)

    say(f"{len(pool)} conversations, {sum(len(r[0]) for r in rows) / 1e6:.2f} M tokens, {len(plan)} batches, "
        f"{sum(sum(w == 1 for w in r[1]) for r in rows) / sum(len(r[0]) for r in rows):.0%} of tokens in replies, "
        f"{time.time() - start:.0f} s")
    model = Quay()
    params = list(model.parameters())
    say(f"{sum(p.numel() for p in params) / 1e6:.2f} M parameters")
    opt = torch.optim.AdamW([dict(params=[p for p in params if p.dim() == 2], weight_decay=.1),
                             dict(params=[p for p in params if p.dim() == 1], weight_decay=0.0)],
                            lr=args.lr, betas=(.9, .95))
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    seen, start = 0, time.time()
    for step in range(args.steps):
        lr = args.lr * min(1, (step + 1) / 60) * (.02 + .98 * .5 * (1 + math.cos(math.pi * step / args.steps)))
        for g in opt.param_groups:
            g["lr"] = lr
        ids, ws = collate(rows, plan[(step * args.workers + rank) % len(plan)])
        with autocast:
            total, weight = loss_of(model, ids, ws)
        total.backward()
        # sum gradients and weights over the workers, then divide: the mean over all weighted tokens
        flat = torch.cat([p.grad.reshape(-1) for p in params] + [torch.stack([weight, total.detach()])])
        dist.all_reduce(flat)
        grads = flat[:-2] / flat[-2]
        for p, g in zip(params, grads.split([p.numel() for p in params])):
            p.grad = g.view_as(p)
        nn.utils.clip_grad_norm_(params, 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        seen += ids.numel()
        if rank == 0 and step + 1 == args.checkpoint:
            write(args.out, model, tok)
        if step % 50 == 0 or step == args.steps - 1:
            say(f"step {step} loss {flat[-1] / flat[-2]:.3f} {seen * args.workers / 1e6:.2f} M tokens {time.time() - start:.0f} s")
    if rank == 0:
        with torch.no_grad(), autocast:
            parts = [loss_of(model, *collate(val, g)) for g in batches(val, args.tokens_per_batch, random.Random(0))]
        say(f"validation {float(sum(t for t, _ in parts) / sum(w for _, w in parts)):.4f}")
        write(args.out, model, tok)
    dist.barrier()


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    ap.add_argument("--steps", type=int, default=850)
    ap.add_argument("--workers", type=int, default=2, help="changes the result: each adds a batch to a step")
    ap.add_argument("--tokens-per-batch", type=int, default=2304)
    ap.add_argument("--seed", type=int, default=7)
    ap.add_argument("--lr", type=float, default=3e-3)
    ap.add_argument("--checkpoint", type=int, default=0, help="also write the model after so many steps")
    args = ap.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        args.rendezvous = os.path.join(folder, "rendezvous")
        torch.multiprocessing.spawn(worker, (args,), nprocs=args.workers)


if __name__ == "__main__":
    main()
