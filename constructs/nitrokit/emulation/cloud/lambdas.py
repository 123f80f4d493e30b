"""Lambda without Docker: each function is one warm process under AWS's own awslambdaric, fed by a Runtime API on loopback. moto would start a container.

Source: AWS Lambda Developer Guide "Using the Lambda runtime API".
"""

from __future__ import annotations

import io
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import uuid
import zipfile
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from nitrokit.emulation import children

LOCAL_RUNTIME = f"python{sys.version_info.major}.{sys.version_info.minor}"
_PREFIX = "/2018-06-01/runtime/"


class FunctionProcess:
    """One function's process. ``invoke`` is serialised: one event at a time, as one execution environment has it."""

    def __init__(self, arn: str, code: bytes, handler: str, timeout: float, folder: Path, environment: Mapping[str, str]) -> None:
        self._arn = arn
        self._timeout = timeout
        self._lock = threading.Lock()
        self._events: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._answers: queue.Queue[tuple[bool, bytes]] = queue.Queue()
        task = folder / "task"
        with zipfile.ZipFile(io.BytesIO(code)) as archive:
            archive.extractall(task)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.log = folder / "log"
        self._command = [sys.executable, "-m", "awslambdaric", handler]
        self._environment = {
            **environment,
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self._server.server_address[1]}",
            "LAMBDA_TASK_ROOT": str(task),
            "PYTHONPATH": str(task),
            "_HANDLER": handler,
        }
        self._task = task
        self._process: subprocess.Popen[bytes] | None = None

    def invoke(self, event: bytes) -> tuple[bool, bytes]:
        """(failed, payload). A function that does not answer within its timeout is killed and reported as AWS does."""
        with self._lock:
            self._ensure_started()
            while not self._answers.empty():
                self._answers.get_nowait()
            self._events.put((str(uuid.uuid4()), event))
            deadline = self._timeout
            while deadline > 0:
                try:
                    return self._answers.get(timeout=0.2)
                except queue.Empty:
                    deadline -= 0.2
                    if self._process is not None and self._process.poll() is not None:
                        return True, self._error("Runtime.ExitError", f"the runtime exited with {self._process.returncode}: {self._tail()}")
            self._kill()
            return True, self._error("Sandbox.Timedout", f"Task timed out after {self._timeout:.2f} seconds")

    @staticmethod
    def _error(kind: str, message: str) -> bytes:
        return json.dumps({"errorType": kind, "errorMessage": message}).encode()

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-800:] if self.log.exists() else ""

    def _ensure_started(self) -> None:
        if self._process is None or self._process.poll() is not None:
            with self.log.open("ab") as log:
                self._process = children.start(
                    self._command, cwd=self._task, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        function = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.path != f"{_PREFIX}invocation/next":
                    self.send_error(404)
                    return
                request_id, event = function._events.get()
                self.send_response(200)
                headers = {
                    "Lambda-Runtime-Aws-Request-Id": request_id,
                    "Lambda-Runtime-Deadline-Ms": str(2**42),
                    "Lambda-Runtime-Invoked-Function-Arn": function._arn,
                }
                for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(event))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(event)

            def do_POST(self) -> None:
                body = self._body()
                kind = self.path.rsplit("/", 1)[-1]
                if kind in ("response", "error"):
                    function._answers.put((kind == "error", body))
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                chunks = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    chunks.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(chunks)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        self._kill()
        self._server.shutdown()
        self._server.server_close()


class Lambdas:
    """The processes of all functions, by name and code."""

    def __init__(self, work: Path, environment: Callable[[str, str], dict[str, str]]) -> None:
        self._work = work
        self._environment = environment
        self._processes: dict[tuple[str, str], FunctionProcess] = {}
        self._lock = threading.Lock()

    def invoke(self, function: Any, event: Any) -> tuple[str, bool, str]:
        """What moto's LambdaFunction._invoke_lambda returns: payload, whether it failed, logs."""
        if function.run_time != LOCAL_RUNTIME:
            message = f"the function declares {function.run_time}, and this machine's Python is {LOCAL_RUNTIME}: deploy locally with -c nitrokit:lambdaRuntime={LOCAL_RUNTIME}"
            return json.dumps({"errorType": "Runtime.InvalidRuntime", "errorMessage": message}), True, ""
        failed, payload = self._process(function).invoke(event.encode() if isinstance(event, str) else json.dumps(event or {}).encode())
        return payload.decode(), failed, ""

    def _process(self, function: Any) -> FunctionProcess:
        with self._lock:
            key = (function.function_name, function.code_sha_256)
            if key not in self._processes:
                folder = self._work / f"fn{len(self._processes)}"
                folder.mkdir(parents=True)
                environment = {
                    **self._environment(function.role, function.function_name),
                    **{name: str(value) for name, value in function.environment_vars.items()},
                }
                environment |= {
                    "AWS_LAMBDA_FUNCTION_NAME": function.function_name,
                    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_size),
                    "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
                    "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.function_name}",
                    "AWS_LAMBDA_LOG_STREAM_NAME": f"[$LATEST]{uuid.uuid4().hex}",  # a custom resource's id, where its function names none
                    "POWERTOOLS_TRACE_DISABLED": "true",  # there is no X-Ray here
                }
                self._processes[key] = FunctionProcess(
                    function.function_arn, function.code_bytes, function.handler, float(function.timeout or 3), folder, environment
                )
            return self._processes[key]

    def logs(self) -> str:
        return "\n".join(process.log.read_text(errors="replace")[-3000:] for process in self._processes.values() if process.log.exists())

    def close(self) -> None:
        for process in self._processes.values():
            process.close()
        shutil.rmtree(self._work, ignore_errors=True)


def base_environment() -> dict[str, str]:
    """What every local child process needs of ours."""
    return {name: os.environ[name] for name in ("PATH", "LANG", "HOME") if name in os.environ}
