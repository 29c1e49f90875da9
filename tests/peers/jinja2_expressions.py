"""Checks the expectations of src/engine/tests/it/jinja2.rs against Jinja2: `python tests/peers/jinja2_expressions.py` (needs jinja2).

The environment is the one in which transformers renders chat templates, without its own functions and tags."""
import ast
import pathlib
import re
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment

environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
source = pathlib.Path(__file__).parents[2].joinpath("src/engine/tests/it/jinja2.rs").read_text()
source = source[source.index("for (source, expected) in ["):source.index("] {\n        assert_eq!")]
pairs = re.findall(r'\(("(?:[^"\\]|\\.)*"), ("(?:[^"\\]|\\.)*")\)', source)
wrong = 0
for template, expected in (map(ast.literal_eval, pair) for pair in pairs):
    found = environment.from_string(template).render(messages=[], tools=None)
    if found != expected:
        wrong += 1
        print(f"{template!r}: expected {expected!r}, Jinja2 prints {found!r}")
print(f"{len(pairs)} expressions, {wrong} differ")
sys.exit(wrong > 0 or not pairs)
