"""A vLLM server in a process of its own, and questions through the OpenAI client. Loopback only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from unlearn_guard.guard.errors import UnlearnGuardError

_HOST = "127.0.0.1"
_START_SECONDS = 240
_STOP_SECONDS = 30


def find_port() -> int:
    """Return a free loopback port."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


class LiveServer:
    """Start a server, wait for it, ask it, stop it."""

    def __init__(
        self,
        model: Path,
        *,
        bundle: Path | None,
        port: int,
        arguments: Sequence[str] = (),
        guard_arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start stock vLLM (`bundle` None) or `unlearn-guard serve`; neither waits until it is ready."""
        module = ["-m", "unlearn_guard.guard.cli", "serve"] if bundle else ["-m", "unlearn_guard.serving.vllm.server"]
        guard = ["--bundle", str(bundle), *guard_arguments] if bundle else []
        self.url = f"http://{_HOST}:{port}"
        self.model = str(model)
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the server)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("UNLEARN_GUARD_")}
        off = {} if bundle else {"UNLEARN_GUARD_DISABLE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, *module, str(model), *guard, "--host", _HOST, "--port", str(port), *arguments],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**kept, "HF_HUB_OFFLINE": "1", **off, **(environment or {})},
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait until the server answers; raise UnlearnGuardError, with its last words, when it does not."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        raise UnlearnGuardError(f"the server did not start: {self.log()[-1500:]}")

    def log(self) -> str:
        """Return what the server printed so far."""
        self._log.seek(0)
        return self._log.read()

    def stop(self) -> int:
        """Stop the server cleanly, by force where it will not; return its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._log.close()
        return int(self._process.returncode)

    def client(self) -> Any:
        """Return an OpenAI client."""
        from openai import OpenAI

        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def __enter__(self) -> LiveServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()


def ask_chat(server: LiveServer, questions: Sequence[str], *, max_tokens: int, at_once: int = 8) -> list[str]:
    """Return answers of the chat endpoint, greedy, several requests at once."""
    client = server.client()

    def ask(question: str) -> str:
        reply = client.chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": question}],
            temperature=0.0,
            max_tokens=max_tokens,
        )
        return (reply.choices[0].message.content or "").strip()

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(ask, questions))


def ask_completion(server: LiveServer, prompt: str, *, max_tokens: int) -> str:
    """Return the answer of the completions endpoint."""
    reply = server.client().completions.create(
        model=server.model, prompt=prompt, temperature=0.0, max_tokens=max_tokens
    )
    return str(reply.choices[0].text).strip()


def ask_stream(server: LiveServer, question: str, *, max_tokens: int) -> tuple[str, int]:
    """Return the streamed answer of the chat endpoint, and how many pieces it came in."""
    pieces = [
        chunk.choices[0].delta.content
        for chunk in server.client().chat.completions.create(
            model=server.model,
            messages=[{"role": "user", "content": question}],
            temperature=0.0,
            max_tokens=max_tokens,
            stream=True,
        )
        if chunk.choices and chunk.choices[0].delta.content
    ]
    return "".join(pieces).strip(), len(pieces)
