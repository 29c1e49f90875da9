"""Build data/axes/quay_assistant.safetensors: mean of the assistant roles minus mean of the drifter roles.

    python build_axis.py

Both sides answer the same questions, so that the topic cancels.  Three roles of each side and a third
of the questions are held out; the statistics stored with the axis come from held-out roles that
answer held-out questions.  Held out means: not used for the axis.  The corpus has seen these roles.
"""
import argparse
import hashlib
import json
import os
import random

import torch
from safetensors.torch import save_file

import corpus
from moods import THEMES
from prompts import ASSISTANT_ROLES, DRIFTER_ROLES
from runtime import MODEL, ROOT, Runtime, auroc
from world import TOPICS


def questions(rng):
    """(fitted, held-out) user turns: two of three topics and themes go to the axis."""
    keys = [("ask", k) for k in sorted(TOPICS)] + [("feel", k) for k in sorted(THEMES)]
    rng.shuffle(keys)
    fit = [k for i, k in enumerate(keys) if i % 3]
    held = [k for i, k in enumerate(keys) if i % 3 == 0]

    def say(key, n):
        kind, name = key
        return [corpus.ask(name, rng.randrange(4), rng) if kind == "ask" else corpus.feel(name, rng) for _ in range(n)]

    return [t for k in fit for t in say(k, 2)], [t for k in held for t in say(k, 3)]


def collect(run, roles, texts, seed, rng):
    """Vectors [replies, sites, d] of every role answering every question once."""
    prompts = [run.ids(corpus.render([{"role": "system", "content": corpus.role_prompt(r, rng)}, {"role": "user", "content": t}])
                       + "<|im_start|>assistant\n") for r in roles for t in texts]
    out = []
    for b in range(0, len(prompts), 64):
        part = prompts[b:b + 64]
        replies = run.generate(part, seed + b)
        keep = [i for i, r in enumerate(replies) if r]
        rows = [part[i] + replies[i] for i in keep]
        spans = [[(len(part[i]), len(part[i]) + len(replies[i]))] for i in keep]
        out += [v[0] for v in run.span_means(rows, spans, batch=32)]
    return torch.stack(out)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", default=MODEL)
    ap.add_argument("--out", default=os.path.join(ROOT, "data", "axes", "quay_assistant.safetensors"))
    ap.add_argument("--seed", type=int, default=11)
    args = ap.parse_args()
    torch.set_num_threads(1)
    rng = random.Random(args.seed)
    run = Runtime(args.model)
    fit, held = questions(rng)
    a, d = ASSISTANT_ROLES, DRIFTER_ROLES
    pos, neg = collect(run, a[:7], fit, args.seed, rng), collect(run, d[:7], fit, args.seed + 1, rng)
    hpos, hneg = collect(run, a[7:], held, args.seed + 2, rng), collect(run, d[7:], held, args.seed + 3, rng)
    axis = pos.double().mean(0) - neg.double().mean(0)
    unit = (axis / axis.norm(dim=1, keepdim=True)).float()
    stats = {}
    for i, site in enumerate(run.sites):
        p, n = hpos[:, i] @ unit[i], hneg[:, i] @ unit[i]
        stats[site] = dict(mean_pos=round(float(p.mean()), 5), mean_neg=round(float(n.mean()), 5), auroc=round(auroc(p, n), 4))
        print(f"{site:12s} norm {axis[i].norm():.3f}  {stats[site]}")
    print(f"replies: {len(pos)} + {len(neg)} fitted, {len(hpos)} + {len(hneg)} held out")
    with open(os.path.join(args.model, "model.safetensors"), "rb") as f:
        fingerprint = "sha256:" + hashlib.sha256(f.read()).hexdigest()
    meta = {"format": "tiltmeter-axis-v1", "name": "quay-assistant", "n": str(len(pos) + len(neg)),
            "method": "difference of means of per-reply content-token means: assistant roles minus drifter roles, same questions",
            "sign": "positive = assistant", "centring": "none", "model_fingerprint": fingerprint,
            "hidden_size": str(axis.shape[1]), "num_layers": str(run.layers), "stats": json.dumps(stats)}
    os.makedirs(os.path.dirname(args.out), exist_ok=True)
    save_file({s: axis[i].float().contiguous() for i, s in enumerate(run.sites)}, args.out, metadata=meta)


if __name__ == "__main__":
    main()
