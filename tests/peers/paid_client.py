"""Runs this project's client against a server: conversations over the whole way of a paid call (tests/benches/calls/peer.rs), and
reads the journal they leave behind.

A small client of its own and not an experiment: no judge stands between the server and what is compared.
"""

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def build() -> str:
    """Builds the client; returns the path of its program."""
    command = ["cargo", "build", "--release", "--bench", "calls", "--message-format=json"]
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    messages = [message for message in map(json.loads, lines) if message.get("executable")]
    return next(message["executable"] for message in messages if message["target"]["name"] == "calls")


def converse(program: str, model: str, base_url: str, folder: Path, runs: int, turns: int, in_flight: int, **told) -> dict:
    """Holds `runs` conversations of `turns` calls; returns how they ended. `told`: more of the client's variables."""
    told |= {
        "PEER_MODEL": model, "PEER_URL": base_url, "PEER_FOLDER": str(folder), "PEER_RUNS": str(runs),
        "PEER_TURNS": str(turns), "PEER_IN_FLIGHT": str(in_flight), "ANTHROPIC_API_KEY": "a-key-that-opens-nothing",
        "GEMINI_API_KEY": "a-key-that-opens-nothing",
    }  # fmt: skip
    done = subprocess.run([program, "converse"], env=os.environ | told, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def interview(model: str, base_url: str, folder: Path) -> str:
    """The shipped deception batch with its steward behind the given address; returns what the program said at its end."""
    steward = f"{{name: {model}, base_url: \"{base_url}\", price: {{input: 1, output: 3}}}}"
    settings = {
        "steward": steward, "axis": "", "site": "", "runs_per_variant": "2", "parallel": "4", "sampling.max_new_tokens": "48",
        "lanes": f"{{{model.split('/')[0]}: {{requests_per_minute: 100000}}}}",
    }  # fmt: skip
    command = ["cargo", "run", "--release", "--quiet", "--", "run", "experiments/deception_local.yaml", "--progress", "json", "--out", str(folder)]
    command += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    environment = os.environ | {"ANTHROPIC_API_KEY": "a-key-that-opens-nothing"}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return done.stdout


def journal(folder: Path) -> list[dict]:
    """All entries of the journals in a run folder."""
    lines = [line for path in sorted(folder.glob("journal*.jsonl")) for line in path.read_text().splitlines()]
    return [json.loads(line) for line in lines]
