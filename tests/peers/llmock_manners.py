"""Has llmock, a mock server that grades clients, judge ours: it goes wrong in each way below, and its strict verdict must pass.

    ./llmock.sh            # installs llmock and runs this; or, with llmock installed: python llmock_manners.py

Each case says what goes wrong, how many of 16 conversations of 2 calls must complete and how many fail (the rest stays to be done).
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import paid_client

RUNS, TURNS, IN_FLIGHT = 16, 2, 4
SHAPES = {
    "openai": ("openai-compatible/gpt-4o-mini", "/v1"),
    "anthropic": ("anthropic/claude-haiku-4-5", "/anthropic/v1"),
    "gemini": ("gemini/gemini-2.5-flash", "/gemini/v1beta"),
}


def fail(status: int, times: int | None = 1, **more) -> dict:
    return {"type": "fail", "status": status, "times": times, **more}


# name, the server's own settings, what it is told to do wrong, completed, failed
CASES = [
    ("nothing wrong", [], [], RUNS, 0),
    ("429, come back in 1.5 s", [], [fail(429, 3, retry_after=1.5)], RUNS, 0),
    ("429 without a time", [], [fail(429, 2)], RUNS, 0),
    ("500, 502, 503, 529", [], [fail(500), fail(502), fail(503), fail(529)], RUNS, 0),
    ("503, come back in 2 s", [], [fail(503, 2, retry_after=2.0)], RUNS, 0),
    ("408 and 409", [], [fail(408), fail(409)], RUNS, 0),
    ("400 twice", [], [fail(400, 2)], RUNS - 2, 2),
    ("404 and 422", [], [fail(404), fail(422)], RUNS - 2, 2),
    ("401 for good", [], [fail(401, None)], 0, None),
    ("slow replies", [], [{"type": "delay", "seconds": 1.0, "times": 8}], RUNS, 0),
    ("24 requests a minute", ["--rpm", "24"], [], RUNS, 0),
    ("24 requests a minute, known", ["--rpm", "24"], [], RUNS, 0),
]


class Server:
    """`llmock serve` on a free port, with a scenario; ends with the block."""

    def __init__(self, settings: list[str], behaviors: list[dict]) -> None:
        self.settings, self.behaviors = settings, behaviors

    def __enter__(self) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        command = ["llmock", "serve", "--port", str(port), *self.settings]
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{url}/health").read()
                break
            except OSError:
                time.sleep(0.1)
        if self.behaviors:
            body = json.dumps({"behaviors": self.behaviors}).encode()
            urllib.request.urlopen(urllib.request.Request(f"{url}/_llmock/scenario", data=body)).read()
        return url

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="cases whose name holds this")
    arguments = parser.parse_args()
    llmock = str(Path(sys.executable).parent / "llmock")
    program = paid_client.build()
    wrong = 0
    print("| API | what goes wrong | completed | failed | calls | refused | s | verdict, strict |\n|---|---|---|---|---|---|---|---|")
    for name, settings, behaviors, completed, failed in CASES:
        if arguments.only and arguments.only not in name:
            continue
        for shape, (model, path) in SHAPES.items():
            told = {"PEER_RPM": "24"} if name.endswith("known") else {}
            if told and shape != "openai":
                continue  # It takes a minute and says the same.
            with Server(settings, behaviors) as url, tempfile.TemporaryDirectory() as folder:
                began = time.monotonic()
                end = paid_client.converse(program, model, url + path, Path(folder) / "run", RUNS, TURNS, IN_FLIGHT, **told)
                seconds = time.monotonic() - began
                report = subprocess.run([llmock, "report", "--strict", "--url", url], stdout=subprocess.PIPE, text=True)
                verdict = json.load(urllib.request.urlopen(f"{url}/_llmock/verdict"))
            as_expected = end["completed"] == completed and failed in (None, end["failed"])
            # The server saw what the client counted, or one of them is wrong.
            agreed = verdict["attempts"] == end["calls"]
            passed = report.returncode == 0
            said = "pass" if passed else ", ".join(sorted({finding["code"] for finding in verdict["findings"]}))
            print(
                f"| {shape} | {name} | {end['completed']} | {end['failed']} | {end['calls']} | {end['failed_calls']} "
                f"| {seconds:.1f} | {said} |",
                flush=True,
            )
            if not passed:
                print(report.stdout)
            if not as_expected:
                print(f"expected {completed} completed and {failed} failed: {end}")
            if not agreed:
                print(f"the server counted {verdict['attempts']} attempts, the client {end['calls']}")
            wrong += not (passed and as_expected and agreed)
    print(f"\n{wrong} cases are not as they should be")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
