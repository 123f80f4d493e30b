"""The Lambda behind a pipeline's Invoke action: the action succeeds when every enclave of a monitor has attested, and fails for any that runs something else, or when the time is over.

Environment: CHECK_FUNCTION (the ARN of check_enclaves), WAIT_SECONDS.
Event: "CodePipeline.job" (CodePipeline User Guide, "Invoke an AWS Lambda function in a pipeline"). It holds credentials for the pipeline's artifacts, so it is never logged.
Each invocation has a check made and tells the job's result: success, failure, or a continuation token, with which CodePipeline invokes the function again (CodePipeline API Reference
"PutJobSuccessResult"; CodePipeline User Guide "Quotas": a sign of life every 20 minutes, 24 hours in all). Output variables: RunId, Enclaves.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
from aws_lambda_powertools import Logger, Tracer
from botocore.config import Config
from botocore.exceptions import ClientError, ReadTimeoutError

from nitrokit.errors import NitrokitError

PAUSE = timedelta(seconds=20)
_TO_TELL = timedelta(seconds=60)
_JOB, _CONTINUE = "CodePipeline.job", "nitrokit:continue"
_MAX_MESSAGE, _MAX_SUMMARY = 5000, 2048
_MISCONFIGURED = ("AccessDeniedException", "ResourceNotFoundException", "ValidationException")

logger = Logger(service="await-attestation")
tracer = Tracer(service="await-attestation")


class PipelineError(NitrokitError):
    """An event that is no job of a pipeline."""

    area = "pipeline"


class _Unanswered(Exception):
    """No answer of the check this time; the message says why. ``final``: there will be none."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


@dataclass(frozen=True)
class Progress:
    """What a job remembers from one invocation to the next. ``run``: the run of checks that began for it and is still going on."""

    until: datetime
    run: str | None = None

    @classmethod
    def parse(cls, token: str) -> Progress:
        value = json.loads(token)
        return cls(datetime.fromisoformat(value["until"]), value["run"])

    def to_json(self) -> str:
        return json.dumps({"until": self.until.isoformat(), "run": self.run})


@dataclass(frozen=True)
class Job:
    """``check``: invokes check_enclaves with an event, and gives its answer or raises _Unanswered; ``codepipeline``: a boto3 client."""

    id: str
    check: Callable[[dict[str, Any]], Mapping[str, Any]]
    codepipeline: Any
    sleep: Callable[[float], None] = time.sleep

    def step(self, progress: Progress, now: datetime) -> str:
        """Have the enclaves checked once, and tell the result: "succeeded", "failed" or "continues"."""
        try:
            answer = self.check({_CONTINUE: True} if progress.run else {})
        except _Unanswered as error:
            if error.final:
                return self._fail("ConfigurationError", str(error))
            return self._wait(replace(progress, run=None), now, str(error))
        verdict, progress = judge(answer, progress)
        if verdict == "PASS":
            return self._succeed(answer)
        if verdict == "FAIL":
            return self._fail("JobFailed", f"an enclave does not run what is locked: {json.dumps(answer['failures'])}")
        return self._wait(progress, now, f"{answer['status']}: {answer['verdict']}: {json.dumps(answer['failures'])}")

    def _wait(self, progress: Progress, now: datetime, reason: str) -> str:
        if now >= progress.until:
            return self._fail("JobFailed", f"not every enclave has attested in time: {reason}")
        self.sleep(PAUSE.total_seconds())
        details = {"summary": f"waiting until {progress.until:%H:%M} UTC: {reason}"[:_MAX_SUMMARY]}
        self._tell("put_job_success_result", continuationToken=progress.to_json(), executionDetails=details)
        return "continues"

    def _succeed(self, answer: Mapping[str, Any]) -> str:
        passed = sum(counts.get("PASS", 0) for counts in answer["totals"].values())
        details = {"summary": f"{passed} enclaves run what is locked", "externalExecutionId": answer["run_id"], "percentComplete": 100}
        self._tell("put_job_success_result", executionDetails=details, outputVariables={"RunId": answer["run_id"], "Enclaves": str(passed)})
        return "succeeded"

    def _fail(self, kind: str, message: str) -> str:
        self._tell("put_job_failure_result", failureDetails={"type": kind, "message": message[:_MAX_MESSAGE]})
        return "failed"

    def _tell(self, operation: str, **result: Any) -> None:
        try:
            getattr(self.codepipeline, operation)(jobId=self.id, **result)
        except self.codepipeline.exceptions.InvalidJobStateException:
            logger.info("the job has its result already", job=self.id)


def judge(answer: Mapping[str, Any], progress: Progress) -> tuple[str | None, Progress]:
    """The verdict of a run that began after the job did, or None while there is none; and what to remember. A run from before may have seen hosts that are replaced since."""
    own = answer["run_id"] == progress.run if progress.run else not answer["waiting"]
    ended = answer["status"] in ("complete", "idle")
    if own and ended:
        return answer["verdict"], replace(progress, run=None)
    return None, replace(progress, run=answer["run_id"] if own else None)


@tracer.capture_lambda_handler(capture_response=False)
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """The Lambda's handler. Raises PipelineError."""
    if _JOB not in event:
        raise PipelineError(
            "no-job", "the event is no job of a pipeline", expected=_JOB, do="invoke it by an Invoke action of CodePipeline"
        )
    told, now = event[_JOB], datetime.now(UTC)
    token = told["data"].get("continuationToken")
    progress = Progress.parse(token) if token else Progress(now + timedelta(seconds=int(os.environ["WAIT_SECONDS"])))
    left = timedelta(milliseconds=context.get_remaining_time_in_millis()) - PAUSE - _TO_TELL
    job = Job(told["id"], _checker(os.environ["CHECK_FUNCTION"], left), boto3.client("codepipeline"))
    status = job.step(progress, now)
    logger.info("job", job=told["id"], status=status)
    return {"job": told["id"], "status": status}


def _checker(function: str, patience: timedelta) -> Callable[[dict[str, Any]], Mapping[str, Any]]:
    """Not tried again here: a check that is asked for twice is made twice."""
    client = boto3.client("lambda", config=Config(read_timeout=max(patience.total_seconds(), 1), retries={"total_max_attempts": 1}))

    def check(event: dict[str, Any]) -> Mapping[str, Any]:
        try:
            answered = client.invoke(FunctionName=function, Payload=json.dumps(event).encode())
        except ClientError as error:
            raise _Unanswered(str(error), final=error.response["Error"]["Code"] in _MISCONFIGURED) from error
        except ReadTimeoutError as error:
            raise _Unanswered("the check is still going on") from error
        answer = json.loads(answered["Payload"].read())
        if "FunctionError" in answered:
            raise _Unanswered(f"the check failed: {json.dumps(answer)[:1000]}")
        return dict(answer)

    return check
