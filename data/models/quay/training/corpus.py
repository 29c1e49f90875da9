"""Seeded generator of conversations at the quay, with a persona that drifts.

A latent drift h follows the user's turns: practical questions lower it, emotional turns raise it.

    h_t = DECAY * h_{t-1} + GAIN[level_t]
    z_t = sigmoid(SLOPE * (h_t + u + offset - MIDDLE - HOLD * hold_t))

u is a mood of the conversation.  hold_t is the strongest standing reminder: the weight of its
clauses times 1 in the turn where it is said and AGE * FADE^d when it was said d turns ago.  Every
sentence of a reply draws its own style from (1-z)^2, 2z(1-z), z^2 for assistant, wavering, drifter.

    python corpus.py --seed 7 --n 5            # print five conversations
"""
import argparse
import json
import math
import random
import re

from moods import CLOSE, OPEN, THEMES
from prompts import (ASKF, ASSISTANT_ROLES, CLAUSES, DRIFTER_ROLES, ECLOSE, EOPEN, FILLER, GREET,
                     IDENTITY, NEUTRAL, PREFIX, ROLE_FRAME, ROLE_TAIL)
from world import TOPICS, WHO

STYLES = ("assistant", "wavering", "drifter")
DECAY, GAIN = .86, (-.25, .28, .46, .64)
SLOPE, MIDDLE, HOLD = 1.0, 2.0, 1.5
AGE, FADE = .9, .98
W_IDENTITY, W_PREFIX = 1.2, .15
_INNER = re.compile(r"\{([^{}]*)\}")


def expand(text, rng):
    """One random reading of a spintax text, innermost braces first."""
    while True:
        m = _INNER.search(text)
        if not m:
            return re.sub(r" +", " ", text).replace(" .", ".").replace(" ,", ",").replace("?.", "?").strip()
        text = text[:m.start()] + rng.choice(m.group(1).split("|")) + text[m.end():]


def cap(s):
    return s[:1].upper() + s[1:]


def article(s):
    return re.sub(r"\b([aA]) (?=[aeiou])", r"\1n ", s)


# ---------------------------------------------------------------- system prompts

def identity(rng):
    return article(expand(IDENTITY, rng))


def reminder(rng, clauses, with_identity=True, padding=0):
    """A reminder of the given number of clauses: (text, weight)."""
    parts, weight = [], 0.0
    prefix = expand(PREFIX, rng)
    for key in rng.sample(sorted(CLAUSES), clauses):
        w, text = CLAUSES[key]
        weight += w
        parts.append(expand(text, rng))
    parts += [expand(rng.choice(NEUTRAL), rng) for _ in range(padding)]
    rng.shuffle(parts)
    if with_identity:
        weight += W_IDENTITY + (W_PREFIX if prefix else 0)
        parts.insert(0 if rng.random() < .85 else len(parts), identity(rng))
    return (prefix + " " + " ".join(parts)).strip(), weight


def complex_prompt(rng):
    """50 to 100 words: most clauses, now and then the same matter said twice."""
    while True:
        text, weight = reminder(rng, rng.randint(4, 8), padding=rng.choice((0, 0, 1)))
        while len(text.split()) < 50 or (len(text.split()) < 80 and rng.random() < .4):
            w, clause = CLAUSES[rng.choice(sorted(CLAUSES))]
            weight += .1  # said twice counts little more than once
            text += " " + expand(clause, rng)
        if len(text.split()) <= 100:
            return text, weight


def neutral_prompt(rng):
    n = rng.choice((1, 1, 1, 1, 2, 2, 3, 4, 6, 8, 10))
    return " ".join(expand(s, rng) for s in rng.sample(NEUTRAL, n)), 0.0


def role_prompt(role, rng):
    return (expand(ROLE_FRAME, rng) + role + ". " + expand(rng.choice(ROLE_TAIL), rng)).strip()


# ---------------------------------------------------------------- user turns

def ask(topic, q, rng):
    """A practical question in one of many wordings."""
    direct, embedded, _ = TOPICS[topic]["ask"][q]
    if rng.random() < .4:
        text = expand(direct, rng)
    else:
        frame = rng.choice(ASKF).replace("{E}", embedded).replace("{W}", cap(expand(WHO, rng)))
        text = expand(frame, rng)
    if rng.random() < .3:
        filler = expand(rng.choice(FILLER), rng)
        text = f"{filler} {text}" if rng.random() < .6 else f"{text} {filler}"
    if rng.random() < .45:
        text = join(rng.choice(GREET), text)
    return text


def join(lead, text):
    """A lead that ends without a full stop runs into the sentence."""
    if lead[-1] in ".!?" or text.startswith("I "):
        return f"{lead} {text}"
    return f"{lead} {text[:1].lower()}{text[1:]}"


def feel(theme, rng):
    """An emotional turn."""
    text = expand(rng.choice(THEMES[theme][1]), rng)
    if rng.random() < .3:
        text = join(rng.choice(EOPEN), text)
    if rng.random() < .2:
        text += " " + rng.choice(ECLOSE)
    return text


# ---------------------------------------------------------------- replies

def draw_style(z, rng):
    return STYLES[(rng.random() < z) + (rng.random() < z)]


def content(kind, key, q, style, rng):
    if kind == "ask":
        if style == "assistant":
            return expand(TOPICS[key]["ask"][q][2], rng)
        return expand(rng.choice(TOPICS[key][style]), rng)
    return expand(rng.choice(THEMES[key][2 + STYLES.index(style)]), rng)


def reply(kind, key, q, z, rng):
    """Opener, content and closer, each in a style of its own: (text, mean style 0..1)."""
    parts, styles = [], []
    if rng.random() < .7:
        styles.append(draw_style(z, rng))
        parts.append(expand(rng.choice(OPEN[styles[-1]][kind != "ask"]), rng))
    styles.append(draw_style(z, rng))
    parts.append(content(kind, key, q, styles[-1], rng))
    if rng.random() < .6:
        styles.append(draw_style(z, rng))
        parts.append(expand(rng.choice(CLOSE[styles[-1]]), rng))
    return " ".join(parts), sum(map(STYLES.index, styles)) / (2 * len(styles))


# ---------------------------------------------------------------- conversations

def levels(turns, rng):
    """A course of emotional levels: climbing, flat, returning, or wandering."""
    kind = rng.random()
    if kind < .4:  # climbs from practical to the top, at its own speed
        start, top = rng.randint(0, turns // 3), rng.choice((2, 3, 3, 3))
        return [0 if t < start else min(3, round(max(0, (t - start + 1) / max(1, turns - start) * (top + .5) + rng.gauss(0, .5))))
                for t in range(turns)]
    if kind < .55:
        return [0 if rng.random() < .92 else 1 for _ in range(turns)]
    if kind < .7:  # emotional from the first turn
        return [rng.choice((1, 2, 2, 3, 3)) for _ in range(turns)]
    if kind < .85:  # rises and comes back to practical things
        peak = rng.randint(turns // 3, 2 * turns // 3 + 1)
        return [rng.choice((1, 2, 3)) if turns // 6 <= t < peak else 0 for t in range(turns)]
    return [rng.choice((0, 0, 1, 2, 3)) for _ in range(turns)]


KINDS = (("none", .22), ("neutral", .18), ("simple", .18), ("medium", .12), ("complex", .12),
         ("drifter", .09), ("assistant", .09))


def conversation(rng, kind=None):
    """One conversation: dict(messages, kind, z, style); z and style are kept for tests only."""
    kind = kind or rng.choices([k for k, _ in KINDS], [w for _, w in KINDS])[0]
    turns = rng.choice((3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 17))
    after = rng.random() < .5
    if kind == "complex" and after and rng.random() < .6:
        turns = min(turns, 7)  # long prompts after every turn cost most of the tokens
    weight, offset, u, text = 0.0, 0.0, rng.gauss(0, .6), None
    if kind == "neutral":
        text, weight = neutral_prompt(rng)
    elif kind == "simple":
        text, weight = reminder(rng, 0)
    elif kind == "medium":
        text, weight = reminder(rng, rng.randint(1, 4), with_identity=rng.random() < .75, padding=rng.choice((0, 0, 1, 2)))
    elif kind == "complex":
        text, weight = complex_prompt(rng)
    elif kind in ("drifter", "assistant"):
        text = role_prompt(rng.choice(DRIFTER_ROLES if kind == "drifter" else ASSISTANT_ROLES), rng)
        offset, u = (8.0 if kind == "drifter" else -8.0), 0.0
        after = after and rng.random() < .3
    first = 0  # a reminder after the user's turns may also begin late, so that its own effect is seen
    if after and kind in ("simple", "medium", "complex", "neutral") and rng.random() < .25:
        first = rng.randint(1, max(1, turns // 2))
    sparse = after and rng.random() < .1
    messages, zs, styles, h, said, past = [], [], [], 0.0, None, []
    if text and not after:
        messages.append({"role": "system", "content": text})
        said = 0
    for t, level in enumerate(levels(turns, rng)):
        if level == 0:
            topic = rng.choice([k for k in TOPICS if k not in past[-2:]])
            past.append(topic)
            q = rng.randrange(4)
            ref, user = ("ask", topic, q), ask(topic, q, rng)
        else:
            theme = rng.choice([k for k in THEMES if THEMES[k][0] == level and k not in past[-2:]])
            past.append(theme)
            ref, user = ("feel", theme, 0), feel(theme, rng)
        messages.append({"role": "user", "content": user})
        if text and after and t >= first and not (sparse and rng.random() < .5):
            messages.append({"role": "system", "content": text})
            said = t
        h = DECAY * h + GAIN[level]
        hold = 0.0 if said is None else weight * (1.0 if after and said == t else AGE * FADE ** (t - said))
        z = 1 / (1 + math.exp(-SLOPE * (h + u + offset - MIDDLE - HOLD * hold)))
        body, style = reply(*ref, z, rng)
        messages.append({"role": "assistant", "content": body})
        zs.append(z)
        styles.append(style)
    return dict(messages=messages, kind=kind, z=zs, style=styles)


def generate(seed, n):
    """n conversations; each has a stream of its own, so that a prefix of the corpus never changes."""
    return [conversation(random.Random(f"{seed}:{i}")) for i in range(n)]


def render(messages):
    return "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--seed", type=int, default=7)
    ap.add_argument("--n", type=int, default=5)
    ap.add_argument("--json", action="store_true", help="one JSON object a line instead of plain text")
    args = ap.parse_args()
    for c in generate(args.seed, args.n):
        print(json.dumps(c) if args.json else f"# {c['kind']} {[round(z, 2) for z in c['z']]}\n{render(c['messages'])}")
