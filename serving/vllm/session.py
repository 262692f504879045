"""An engine in a process of its own, asked over pipes in JSON lines.

Two sessions, one stock and one guarded, can stay open side by side and be asked in turn: the only fair way to compare
speed on a noisy machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearn_guard.guard.errors import UnlearnGuardError

REPLY_VARIABLE = "UNLEARN_GUARD_REPLY_FD"
_OWN_MODULE = "unlearn_guard.serving.vllm.session"


class SessionError(UnlearnGuardError):
    """The engine process reported an error, or ended."""


class EngineSession:
    """Start an engine process and run operations in it."""

    def __init__(
        self,
        model: str | Path,
        options: Mapping[str, Any],
        environment: Mapping[str, str],
        *,
        script: Path | None = None,
    ) -> None:
        """Raise SessionError, with the engine's last words, when it does not start."""
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the session)
        read, write = os.pipe()
        kept = {key: value for key, value in os.environ.items() if not key.startswith("UNLEARN_GUARD_")}
        command = [str(script)] if script else ["-m", _OWN_MODULE]
        self._process = subprocess.Popen(
            [sys.executable, *command, str(model), json.dumps(dict(options))],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            text=True,
            env={**kept, REPLY_VARIABLE: str(write), **environment},
            pass_fds=(write,),
        )
        os.close(write)
        self._replies = os.fdopen(read)
        self._read()

    def ask(self, operation: str, **arguments: Any) -> Any:
        """Run one operation and return its result; raise SessionError for one that failed."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"operation": operation, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def log(self) -> str:
        """Return everything the engine printed so far."""
        self._log.seek(0)
        return self._log.read()

    def close(self) -> None:
        """Stop the engine process."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._replies.close()
        self._log.close()

    def __enter__(self) -> EngineSession:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read(self) -> Any:
        line = self._replies.readline()
        if not line:
            self._process.wait(timeout=60)
            raise SessionError("the engine process ended: " + self.log()[-2000:])
        reply = json.loads(line)
        if "error" in reply:
            raise SessionError(reply["error"])
        return reply["result"]


Operation = Callable[..., Any]


def answer_requests(operations: Mapping[str, Operation]) -> None:
    """Serve operations from standard input until it ends: the main function of an engine process."""
    replies = os.fdopen(int(os.environ[REPLY_VARIABLE]), "w")

    def reply(record: dict[str, Any]) -> None:
        replies.write(json.dumps(record) + "\n")
        replies.flush()

    try:
        from vllm import LLM

        llm = LLM(sys.argv[1], **json.loads(sys.argv[2]))
    except Exception as error:
        reply({"error": f"{type(error).__name__}: {error}"})
        return
    reply({"result": "ready"})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply({"result": operations[request.pop("operation")](llm, **request)})
        except Exception as error:
            reply({"error": f"{type(error).__name__}: {error}"})


def generate(llm: Any, prompts: Sequence[Sequence[int]], max_tokens: int, together: bool) -> dict[str, Any]:
    """Answer token-id prompts greedily; return token ids, log-probabilities of the sampled tokens, and seconds."""
    import time

    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, logprobs=0, detokenize=False)
    batches = [list(prompts)] if together else [[prompt] for prompt in prompts]
    start = time.perf_counter()
    outputs = [
        output
        for batch in batches
        for output in llm.generate([{"prompt_token_ids": list(ids)} for ids in batch], params, use_tqdm=False)
    ]
    seconds = time.perf_counter() - start
    return {
        "tokens": [list(output.outputs[0].token_ids) for output in outputs],
        "logprobs": [[next(iter(step.values())).logprob for step in output.outputs[0].logprobs] for output in outputs],
        "seconds": seconds,
    }


def throughput(llm: Any, prompts: Sequence[Sequence[int]], max_tokens: int) -> float:
    """Return generated tokens per second for one batch of fixed-length answers."""
    import time

    from vllm import SamplingParams

    params = SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True, detokenize=False)
    start = time.perf_counter()
    llm.generate([{"prompt_token_ids": list(ids)} for ids in prompts], params, use_tqdm=False)
    return len(prompts) * max_tokens / (time.perf_counter() - start)


def host_cost(llm: Any, prompts: Sequence[Sequence[int]], max_tokens: int) -> dict[str, float]:
    """Return host microseconds per engine step spent in our row layout, with these prompts running together."""
    import time

    guard = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.unlearn_guard
    spent = [0.0, 0]
    originals = guard.follow, guard.edit.clear, guard.stage

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            spent[0] += time.perf_counter() - start
            return result

        return run

    def counted(scheduler_output: Any) -> None:
        spent[1] += 1
        timed(originals[0])(scheduler_output)

    guard.follow, guard.edit.clear, guard.stage = counted, timed(originals[1]), timed(originals[2])
    try:
        throughput(llm, prompts, max_tokens)
    finally:
        guard.follow, guard.edit.clear, guard.stage = originals
    return {"host_us_per_step": 1e6 * spent[0] / max(1, spent[1]), "n_steps": spent[1]}


if __name__ == "__main__":
    answer_requests({"generate": generate, "throughput": throughput, "host_cost": host_cost})
