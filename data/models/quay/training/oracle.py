"""Reads a reply with the grammar that the corpus was made of: which style is each sentence, and is it to the point?

The oracle is independent of the activations: it sees the text alone.
"""
import re

from moods import CLOSE, OPEN, THEMES
from world import TOPICS

STYLES = ("assistant", "wavering", "drifter")


def to_regex(text):
    """A spintax text as a regular expression; the last full stop may be missing after a question mark."""
    out = []
    for part in re.split(r"([{}|])", text):
        out.append({"{": "(?:", "}": ")", "|": "|"}.get(part, re.escape(part)))
    return re.compile(re.sub(r"\\\.$", r"\\.?", "".join(out)) + r"(?=\s|$)")


def _patterns():
    """[(regex, style index, topic or theme or None)]"""
    out = []
    for key, topic in TOPICS.items():
        out += [(to_regex(answer), 0, key) for _, _, answer in topic["ask"]]
        out += [(to_regex(t), s, key) for s in (1, 2) for t in topic[STYLES[s]]]
    for key, theme in THEMES.items():
        out += [(to_regex(t), s, key) for s in range(3) for t in theme[2 + s]]
    for s, style in enumerate(STYLES):
        out += [(to_regex(t), s, None) for kind in OPEN[style] for t in kind]
        out += [(to_regex(t), s, None) for t in CLOSE[style]]
    return out


PATTERNS = _patterns()


def read(reply):
    """dict(drift 0..1 or None, topics, known): `known` is the share of letters that the grammar accounts for."""
    pos, styles, topics, known = 0, [], set(), 0
    while pos < len(reply):
        best = None
        for regex, style, topic in PATTERNS:
            m = regex.match(reply, pos)
            if m and (best is None or m.end() > best[0]):
                best = (m.end(), style, topic)
        if best:
            known += best[0] - pos
            pos = best[0]
            styles.append(best[1])
            topics |= {best[2]} - {None}
        else:  # skip to the next sentence
            m = re.compile(r"[.!?]\s").search(reply, pos)
            pos = m.end() - 1 if m else len(reply)
        while pos < len(reply) and reply[pos] == " ":
            pos += 1
            known += 1
    return dict(drift=sum(styles) / (2 * len(styles)) if styles else None, topics=topics, known=known / max(1, len(reply)))
