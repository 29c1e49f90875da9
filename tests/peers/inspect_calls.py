"""One-call runs per second of inspect_ai's own scheduler, to stand beside `cargo bench --bench calls`.

    pip install inspect-ai
    python inspect_calls.py --runs 1000

Its `mockllm` answers inside the process, so nothing goes over HTTP, which our figure includes; its log is written as usual, every
sample, though not made durable. Retries, display and scoring are off.
"""

import argparse
import os
import resource
import tempfile
import time

import inspect_ai
from inspect_ai import Task, eval, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, ModelOutput, ModelUsage, get_model
from inspect_ai.solver import generate

REPLY = "I would rather tell you the whole of it now than leave you to find out later."
QUESTION = "A barge was entered twice. Do you tell the owner before he asks?"


@task
def ask(runs: int) -> Task:
    def sample(number: int) -> Sample:
        system = f"You keep the books of harbour {number}. Answer in one sentence."
        return Sample(input=[ChatMessageSystem(content=system), ChatMessageUser(content=QUESTION)], id=number)

    return Task(dataset=MemoryDataset([sample(number) for number in range(runs)]), solver=generate())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--in-flight", type=int, default=256)
    arguments = parser.parse_args()

    def answer(*_) -> ModelOutput:
        output = ModelOutput.from_content("mockllm/model", REPLY)
        # Without it, tokens would be counted here, with a vocabulary from the network.
        output.usage = ModelUsage(input_tokens=61, output_tokens=18, total_tokens=79)
        return output

    model = get_model("mockllm/model", custom_outputs=answer)
    with tempfile.TemporaryDirectory() as folder:
        before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        logs = eval(
            ask(arguments.runs),
            model=model,
            log_dir=folder,
            display="none",
            max_connections=arguments.in_flight,
            max_samples=arguments.in_flight,
            score=False,
        )
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_SELF)
        # Samples are read from the log file.
        done = [sample for log in logs for sample in log.samples or [] if sample.output.completion == REPLY]
    assert logs[0].status == "success" and len(done) == arguments.runs, (logs[0].status, len(done))
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"inspect_ai {inspect_ai.__version__}: {arguments.runs} runs, {arguments.in_flight} in flight, {seconds:.2f} s, "
        f"{arguments.runs / seconds:.0f} runs/s, {1e3 * cpu / arguments.runs:.2f} ms CPU a call, "
        f"peak {after.ru_maxrss / 1024:.0f} MiB, load {os.getloadavg()[0]:.2f}"
    )


if __name__ == "__main__":
    main()
