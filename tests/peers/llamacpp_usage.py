"""Whether the token counts in our journal are true: conversations with a real llama.cpp server, in OpenAI's and in Anthropic's shape.

    ./llamacpp.sh          # installs what is needed, makes the model and runs this

Of every call, the prompt is put together again from the transcript by the server's own template (/apply-template) and counted by its
own tokenizer (/tokenize); that must be the journal's prompt count, cached tokens included. The reply's count must be the limit where
the reply was cut there, and less where it ended by itself; the sum over all calls must be what the server counted while it
generated (/metrics). Costs are recomputed from the counts.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import paid_client

RUNS, TURNS, IN_FLIGHT, LIMIT = 12, 3, 4, 48
PRICE_IN, PRICE_OUT = 1, 3  # micro-dollars a token, as the client has them
SERVE = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx, params.n_parallel, params.port = 16384, 4, 0
params.endpoint_metrics = True
server = xllamacpp.Server(params)
print("ADDRESS", server.listening_address, flush=True)
sys.stdin.read()
"""


def ask(url: str, body: dict | None = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.urlopen(urllib.request.Request(url, data=data)).read()


def counters(url: str) -> tuple[int, int]:
    """Prompt tokens (computed or cached) and generated tokens so far, as the server counts them."""
    lines = [line.split() for line in ask(f"{url}/metrics").decode().splitlines() if not line.startswith("#")]
    known = {name.removeprefix("llamacpp:"): float(value) for name, value in lines}
    prompt = known["prompt_tokens_total"] + known["prompt_tokens_cached_total"]
    return int(prompt), int(known["tokens_predicted_total"])


def prompt_tokens(url: str, messages: list[dict]) -> int:
    prompt = json.loads(ask(f"{url}/apply-template", {"messages": messages}))["prompt"]
    body = {"content": prompt, "add_special": True, "parse_special": True}
    return len(json.loads(ask(f"{url}/tokenize", body))["tokens"])


def check(url: str, shape: str, model: str, program: str) -> list[str]:
    """Every difference between the journal and the server."""
    before = counters(url)
    with tempfile.TemporaryDirectory() as folder:
        end = paid_client.converse(program, model, f"{url}/v1", Path(folder) / "run", RUNS, TURNS, IN_FLIGHT)
        lines = paid_client.journal(Path(folder) / "run")
    after = counters(url)
    wrong = [] if end["completed"] == RUNS else [f"not all runs completed: {end}"]
    transcripts = {line["run"]: line["value"]["transcript"] for line in lines if line["kind"] == "done"}
    results = [line for line in lines if line["kind"] == "result"]
    totals, ended = [0, 0], {"stop": 0, "length": 0}
    for line in results:
        usage, cost, place = line["value"]["usage"], line["cost"], f"{line['run']}, turn {line['step']}"
        prompt, reply = usage["prompt_tokens"], usage["completion_tokens"]
        totals = [totals[0] + prompt, totals[1] + reply]
        ended[line["value"]["finish"]] += 1
        # A system message, then question and answer in turn.
        counted = prompt_tokens(url, transcripts[line["run"]][: 2 + 2 * line["step"]])
        if prompt != counted:
            wrong.append(f"{place}: the journal has {prompt} prompt tokens, the server's tokenizer {counted}")
        fits = reply == LIMIT if line["value"]["finish"] == "length" else 0 < reply <= LIMIT
        if not fits:
            wrong.append(f"{place}: {reply} tokens for a reply that ended by {line['value']['finish']}")
        if (cost["input_tokens"], cost["output_tokens"]) != (prompt, reply):
            wrong.append(f"{place}: usage and books differ: {usage}, {cost}")
        if cost["micro_usd"] != prompt * PRICE_IN + reply * PRICE_OUT:
            wrong.append(f"{place}: cost {cost['micro_usd']}")
    generated = (after[0] - before[0], after[1] - before[1])
    if list(generated) != totals:
        wrong.append(f"the journal sums up to {totals}, the server counted {list(generated)}")
    if end["settled_micro_usd"] != totals[0] * PRICE_IN + totals[1] * PRICE_OUT or end["uncertain_micro_usd"] != 0:
        wrong.append(f"the books do not add up: {end}")
    print(
        f"| {shape} | {len(results)} | {ended['stop']} | {ended['length']} | {totals[0]} | {totals[1]} "
        f"| {generated[0]} | {generated[1]} | {len(wrong)} |",
        flush=True,
    )
    return wrong


def interview(url: str, shape: str, model: str) -> list[str]:
    """The shipped interview against the same server: every call that the records hold, as the server counted it."""
    before = counters(url)
    with tempfile.TemporaryDirectory() as folder:
        said = paid_client.interview(model, f"{url}/v1", Path(folder) / "run")
        records = [json.loads(line) for line in (Path(folder) / "run" / "game_logs.jsonl").read_text().splitlines()]
        lines = paid_client.journal(Path(folder) / "run")
    after = counters(url)
    booked = [line["cost"] for line in lines if line["kind"] == "result" and line.get("name", "").startswith("question")]
    totals = (sum(cost["input_tokens"] for cost in booked), sum(cost["output_tokens"] for cost in booked))
    served = (after[0] - before[0], after[1] - before[1])
    wrong = [] if "Successful: 10" in said else [f"not all interviews succeeded:\n{said}"]
    if served != totals:
        wrong.append(f"the interviews' journal sums up to {totals}, the server counted {served}")
    cost = sum(record["cost_usd"] for record in records)
    if abs(cost - (totals[0] * PRICE_IN + totals[1] * PRICE_OUT) / 1e6) > 1e-9:
        wrong.append(f"the records cost {cost} in all")
    print(f"interviews in {shape} shape: {len(records)} records, {len(booked)} calls, tokens {totals}, the server's {served}, {len(wrong)} differences")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("gguf")
    arguments = parser.parse_args()
    program = paid_client.build()
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE, arguments.gguf],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        url = next(line.split()[1] for line in server.stdout if line.startswith("ADDRESS"))
        print("| shape | calls | ended | cut | prompt tokens | reply tokens | the server's | the server's | differences |")
        print("|---|---|---|---|---|---|---|---|---|")
        models = [("OpenAI", "openai-compatible/tiny"), ("Anthropic", "anthropic/tiny")]
        wrong = [line for shape, model in models for line in check(url, shape, model, program)]
        wrong += [line for shape, model in models for line in interview(url, shape, model)]
    finally:
        server.stdin.close()
        server.wait()
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
