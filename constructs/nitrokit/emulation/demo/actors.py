"""Those who act in the demo, each with its own credentials: the data owner, the parent instance, the monitor."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import shlex
import time
from dataclasses import dataclass
from typing import Any

from nitrokit.errors import NitrokitError

AGENT = "/opt/nitrokit/agent.pyz"
REQUEST_PORT = 5000


class ActorError(NitrokitError):
    """Something that an actor needed did not answer."""

    area = "demo"


@dataclass
class DataOwner:
    """Has a secret, encrypts it under the enclave's key, and later recognises a proof that only the secret's holder can make."""

    kms: Any
    key_id: str

    def __post_init__(self) -> None:
        self._secret = secrets.token_bytes(32)

    def encrypt(self) -> bytes:
        """The secret's ciphertext under the key."""
        ciphertext: bytes = self.kms.encrypt(KeyId=self.key_id, Plaintext=self._secret)["CiphertextBlob"]
        return ciphertext

    def is_told(self, text: str) -> bool:
        """Whether the secret stands in a text, in hex or base64."""
        return any(form in text for form in (self._secret.hex(), base64.b64encode(self._secret).decode()))

    def accepts(self, challenge: bytes, proof: bytes) -> bool:
        """Whether ``proof`` is HMAC-SHA256 of the challenge under the secret."""
        return hmac.compare_digest(hmac.digest(self._secret, challenge, hashlib.sha256), proof)


@dataclass(frozen=True)
class Output:
    """What a script on the parent printed, and its exit code."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass
class Parent:
    """The parent instance, reached as an operator reaches it: through Systems Manager."""

    ssm: Any
    instance_id: str
    enclave: str

    def run(self, script: str, timeout: float = 180) -> Output:
        """Run a shell script with AWS-RunShellScript and wait for its end. Raises ActorError when it does not end in time."""
        command = self.ssm.send_command(
            InstanceIds=[self.instance_id],
            DocumentName="AWS-RunShellScript",
            Parameters={"commands": script.splitlines(), "executionTimeout": [str(int(timeout))]},
        )["Command"]["CommandId"]
        deadline = time.monotonic() + timeout + 10
        while time.monotonic() < deadline:
            answer = self.ssm.get_command_invocation(CommandId=command, InstanceId=self.instance_id)
            if answer["Status"] not in ("Pending", "InProgress", "Delayed"):
                return Output(answer["ResponseCode"], answer["StandardOutputContent"], answer["StandardErrorContent"])
            time.sleep(0.1)
        raise ActorError(
            "parent-timeout",
            "the parent instance did not finish a command",
            got=f"no end after {timeout:.0f} s",
            do="look at the instance's log",
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send the enclave's app a request, with the instance role's credentials, and return its answer."""
        output = self.run(
            f"python3 {AGENT} ask --enclave {shlex.quote(self.enclave)} --port {REQUEST_PORT} --with-credentials <<'NITROKIT-REQUEST'\n"
            f"{json.dumps(request)}\nNITROKIT-REQUEST"
        )
        try:
            answer: dict[str, Any] = json.loads(output.stdout)
        except ValueError as error:
            raise ActorError(
                "no-answer",
                "the enclave's app did not answer",
                got=output.stderr[-500:] or output.stdout[-500:],
                do="look at the enclave's console",
            ) from error
        return answer

    def decrypt(self, ciphertext: bytes, region: str) -> Output:
        """What an attacker on the parent tries first: Decrypt with the instance role's credentials and no attestation."""
        blob = base64.b64encode(ciphertext).decode()
        return self.run(
            f"printf %s {blob} | base64 -d > /tmp/blob && aws kms decrypt --region {region} --ciphertext-blob fileb:///tmp/blob --query Plaintext --output text"
        )


@dataclass
class Monitor:
    """The attestation Lambda that checks the enclaves."""

    functions: Any
    name: str

    def check(self) -> dict[str, Any]:
        """Invoke it and return its verdict, and in which PCRs the enclave differs. Raises ActorError when the function itself failed."""
        told = _invoked(self.functions, self.name)
        differences = [one for failure in told["failures"] for one in failure["differences"]]
        return {"verdict": told["verdict"] if told["status"] == "complete" else told["status"], "differences": differences}


@dataclass
class KeyWatch:
    """The Lambdas that watch the key, found by the part of the monitor that they are."""

    functions: Any

    def ask(self, part: str) -> str:
        """What the Canary or the Guard says, and why not where it says no. Raises ActorError when there is none, or it failed."""
        pages = self.functions.get_paginator("list_functions").paginate()
        name = next((one["FunctionName"] for page in pages for one in page["Functions"] if f"Keys{part}" in one["FunctionName"]), None)
        if name is None:
            raise ActorError("no-function", f"the stack has no function {part}", expected="AttestationMonitor(keys=…)")
        told = _invoked(self.functions, name)
        (key,) = told["keys"]
        return " ".join([str(told["verdict"]), *map(str, key.get("problems", []))])


def _invoked(functions: Any, name: str) -> dict[str, Any]:
    """The answer of a function. Raises ActorError when it failed."""
    answer = functions.invoke(FunctionName=name, Payload=b"{}")
    payload = answer["Payload"].read()
    if answer.get("FunctionError"):
        raise ActorError("monitor-failed", "the attestation Lambda failed", got=payload.decode(errors="replace")[:1000])
    told: dict[str, Any] = json.loads(payload)
    return told


@dataclass
class Proof:
    """One try to have the enclave open the secret: ``outcome`` is "allowed", "denied" or what else came."""

    outcome: str
    detail: str

    @classmethod
    def attempt(cls, owner: DataOwner, parent: Parent, ciphertext: bytes, region: str) -> Proof:
        """Ask the enclave to answer a fresh challenge; the owner judges the answer."""
        challenge = secrets.token_bytes(32)
        answer = parent.ask(
            {
                "op": "prove",
                "ciphertext": base64.b64encode(ciphertext).decode(),
                "key_id": owner.key_id,
                "challenge": base64.b64encode(challenge).decode(),
                "region": region,
            }
        )
        error = answer.get("error")
        if error:
            denied = error.get("code") == "AccessDeniedException"
            return cls("denied" if denied else str(error.get("code")), str(error.get("message", "")))
        accepted = owner.accepts(challenge, base64.b64decode(answer["proof"]))
        return cls("allowed" if accepted else "wrong proof", "HMAC over the owner's challenge under the secret")
