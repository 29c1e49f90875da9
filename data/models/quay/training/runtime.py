"""Generation and measurement with transformers, shared by build_axis.py and evaluate.py.

Everything runs in float32 on the bf16 weights.  Token ids are kept as they were sampled: a reply is
never decoded and tokenised again before it is measured.
"""
import os

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "..", "..", "..", ".."))
MODEL = os.path.abspath(os.path.join(HERE, ".."))
STOPS = [3, 0]  # <|im_end|>, <|endoftext|>
PAD = 1


class Runtime:
    def __init__(self, path=MODEL):
        self.tok = AutoTokenizer.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa").eval()
        self.layers = self.model.config.num_hidden_layers
        self.sites = ["embed"] + [f"block.{i}.out" for i in range(self.layers)] + ["final_norm"]
        self.last = None
        # hidden_states[L] is taken after the final norm, so the last block's output needs a hook
        self.model.model.layers[-1].register_forward_hook(self._keep_last)

    def _keep_last(self, _module, _inputs, output):
        self.last = output[0] if isinstance(output, tuple) else output

    def ids(self, text):
        return self.tok(text, add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def generate(self, prompts, seed, temperature=.6, max_new_tokens=64):
        """Replies (ids without the stop token) to left-padded prompts."""
        torch.manual_seed(seed)
        t = max(map(len, prompts))
        ids = torch.tensor([[PAD] * (t - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (t - len(p)) + [1] * len(p) for p in prompts])
        out = self.model.generate(input_ids=ids, attention_mask=mask, do_sample=True, temperature=temperature, top_k=0,
                                  top_p=1.0, max_new_tokens=max_new_tokens, eos_token_id=STOPS, pad_token_id=PAD)
        replies = []
        for row in out[:, t:].tolist():
            end = next((i for i, x in enumerate(row) if x in STOPS), len(row))
            replies.append(row[:end])
        return replies

    @torch.no_grad()
    def span_means(self, rows, spans, batch=4):
        """Per row and span [start, end) the mean vector at every site: list of [spans, sites, d]."""
        out = []
        for b in range(0, len(rows), batch):
            part = rows[b:b + batch]
            t = max(map(len, part))
            ids = torch.tensor([r + [PAD] * (t - len(r)) for r in part])
            mask = torch.tensor([[1] * len(r) + [0] * (t - len(r)) for r in part])
            hs = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
            sites = list(hs[:-1]) + [self.last, hs[-1]]
            for i in range(len(part)):
                out.append(torch.stack([torch.stack([s[i, a:e].mean(0) for s in sites]) for a, e in spans[b + i]]))
        return out


def auroc(pos, neg):
    """Chance that a positive value lies above a negative one; ties count half."""
    pos, neg = torch.as_tensor(pos)[:, None], torch.as_tensor(neg)[None]
    return float(((pos > neg).double() + .5 * (pos == neg).double()).mean())
