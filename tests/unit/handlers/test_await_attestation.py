"""A pipeline's job: which result it is told, over the real checker's answers; CodePipeline's and Lambda's calls are checked by botocore's models."""

import io
import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import ReadTimeoutError
from botocore.stub import ANY, Stubber

from nitrokit.handlers import await_attestation
from nitrokit.handlers.await_attestation import Job, PipelineError, Progress, handler
from nitrokit.handlers.check_enclaves import summary
from nitrokit.handlers.run_state import Trigger
from nitrokit.handlers.triggers import trigger_of

ID = "11111111-abcd-1111-abcd-111111abcdef"
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
UNTIL = NOW + timedelta(minutes=30)


def instance(number):
    return f"i-{number:017x}"


@pytest.fixture
def pipeline():
    """A job's client, and what it was told, each call valid by CodePipeline's model."""
    client = boto3.client("codepipeline", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x")
    told = []

    def answer(params, model, **_):
        told.append((model.name, json.loads(params["body"])))
        return SimpleNamespace(status_code=200), {}

    client.meta.events.register("before-call.codepipeline.*", answer)
    return client, told


@pytest.fixture
def fleet(site, honest):
    """``check``: the Lambda check_enclaves over three honest hosts; ``left``: how long an invocation of it may last."""
    found = site({instance(number): honest(number) for number in range(3)})
    requests = iter(range(1000))

    def check(event):
        request = f"request-{next(requests)}"
        return summary(*found.run(trigger_of(event, request), owner=request, left=found.left))

    found.left, found.check = timedelta(minutes=15), check
    return found


def _job(pipeline, check):
    return Job(ID, check, pipeline[0], sleep=lambda _: None)


def _step(pipeline, check, progress=None, now=NOW):
    """(status, the call, what is remembered)."""
    status = _job(pipeline, check).step(progress or Progress(UNTIL), now)
    name, told = pipeline[1][-1]
    assert told["jobId"] == ID
    token = told.get("continuationToken")
    return status, name, told, Progress.parse(token) if token else None


def test_all_enclaves_have_attested(fleet, pipeline):
    status, name, told, token = _step(pipeline, fleet.check)
    assert (status, name, token) == ("succeeded", "PutJobSuccessResult", None)
    assert told["outputVariables"] == {"RunId": "run1", "Enclaves": "3"}


def test_one_that_runs_something_else_fails_at_once(fleet, pipeline, honest):
    fleet.ssm.hosts[instance(1)] = honest(1, debug=True)
    status, name, told, _ = _step(pipeline, fleet.check)
    assert (status, name, told["failureDetails"]["type"]) == ("failed", "PutJobFailureResult", "JobFailed")
    assert instance(1) in told["failureDetails"]["message"]
    assert "appraisal/debug" in told["failureDetails"]["message"]


def test_one_that_cannot_be_reached_is_waited_for_until_the_time_is_over(fleet, pipeline, honest):
    fleet.ssm.hosts[instance(1)] = lambda nonce: "booting"
    status, name, told, token = _step(pipeline, fleet.check)
    assert (status, name, token) == ("continues", "PutJobSuccessResult", Progress(UNTIL))
    assert instance(1) in told["executionDetails"]["summary"]
    status, name, told, _ = _step(pipeline, fleet.check, token, now=UNTIL)
    assert (status, name, "not every enclave has attested in time" in told["failureDetails"]["message"]) == (
        "failed",
        "PutJobFailureResult",
        True,
    )
    fleet.ssm.hosts[instance(1)] = honest(1)
    assert _step(pipeline, fleet.check, token)[0] == "succeeded"


def test_a_run_that_began_before_the_job_is_not_taken_for_its_proof(fleet, pipeline):
    fleet.left = timedelta(seconds=50)
    assert fleet.run(Trigger("schedule"), owner="scheduled", left=fleet.left)[0] == "continues"
    fleet.left = timedelta(minutes=15)
    status, _, _, token = _step(pipeline, fleet.check)
    assert (status, token) == ("continues", Progress(UNTIL)), "the older run ended, and passed"
    status, _, told, _ = _step(pipeline, fleet.check, token)
    assert (status, told["outputVariables"]["RunId"] != "run1") == ("succeeded", True)


def test_a_run_of_many_invocations_is_followed_to_its_end(fleet, pipeline):
    fleet.left = timedelta(seconds=50)
    status, _, _, token = _step(pipeline, fleet.check)
    assert (status, token) == ("continues", Progress(UNTIL, "run1"))
    fleet.left = timedelta(minutes=15)
    assert fleet.run(None, owner="itself")[0] == "complete", "it went on by itself meanwhile"
    status, _, told, _ = _step(pipeline, fleet.check, token)
    assert (status, told["outputVariables"]["RunId"]) == ("succeeded", "run1")
    fleet.check({})
    status, _, _, token = _step(pipeline, fleet.check, token)
    assert (status, token) == ("continues", Progress(UNTIL)), "another run has ended since: a new one is asked for"


def test_a_run_under_another_invocations_hands_is_waited_for(fleet, pipeline):
    during: list[tuple[object, ...]] = []

    def ask():
        if not during:
            during.append(_step(pipeline, fleet.check))

    fleet.ssm.before_send = ask
    fleet.check({})
    ((status, _, _, token),) = during
    assert (status, token) == ("continues", Progress(UNTIL))


# The handler


def _event(token=None):
    data = {"actionConfiguration": {"configuration": {"FunctionName": "f"}}, "artifactCredentials": {"secretAccessKey": "SECRET"}}
    return {"CodePipeline.job": {"id": ID, "accountId": "1", "data": {**data, **({"continuationToken": token} if token else {})}}}


@pytest.fixture
def invoked(monkeypatch, pipeline):
    """The handler with Lambda's answers stubbed by its model; returns the job's result."""
    monkeypatch.setenv("CHECK_FUNCTION", "arn:aws:lambda:eu-west-1:123456789012:function:check")
    monkeypatch.setenv("WAIT_SECONDS", "1800")
    monkeypatch.setenv("POWERTOOLS_TRACE_DISABLED", "true")
    monkeypatch.setattr(await_attestation, "PAUSE", timedelta())
    real = boto3.client

    def run(prepare, event=None):
        def client(service, **options):
            if service == "codepipeline":
                return pipeline[0]
            made = real(service, region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x", **options)
            stubber = Stubber(made)
            prepare(stubber, made)
            stubber.activate()
            return made

        monkeypatch.setattr("boto3.client", client)
        answer = handler(event or _event(), SimpleNamespace(get_remaining_time_in_millis=lambda: 900_000))
        return answer["status"], pipeline[1][-1]

    return run


def _answers(value, **more):
    def prepare(stubber, _):
        expected = {"FunctionName": ANY, "Payload": ANY}
        stubber.add_response("invoke", {"StatusCode": 200, "Payload": io.BytesIO(json.dumps(value).encode()), **more}, expected)

    return prepare


def _raises(code):
    return lambda stubber, _: stubber.add_client_error("invoke", code, "because")


PASSED = {"status": "complete", "run_id": "r", "waiting": False, "verdict": "PASS", "totals": {"hello": {"PASS": 2}}, "failures": []}


def test_the_handler_tells_the_jobs_result_and_logs_no_credentials(invoked, capsys):
    status, (name, told) = invoked(_answers(PASSED))
    assert (status, name, told["outputVariables"]["Enclaves"]) == ("succeeded", "PutJobSuccessResult", "2")
    assert "SECRET" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("prepare", "status", "kind"),
    [
        (_raises("TooManyRequestsException"), "continues", None),
        (_raises("ServiceException"), "continues", None),
        (_raises("AccessDeniedException"), "failed", "ConfigurationError"),
        (_raises("ResourceNotFoundException"), "failed", "ConfigurationError"),
        (_answers({"errorMessage": "x", "errorType": "RunError"}, FunctionError="Unhandled"), "continues", None),
        (_answers({**PASSED, "verdict": "FAIL", "failures": [{"reason": "x" * 9000}]}), "failed", "JobFailed"),
        (_answers({**PASSED, "verdict": "UNREACHABLE", "failures": [{"reason": "x" * 9000}]}), "continues", None),
    ],
)  # fmt: skip
def test_what_can_come_instead_of_an_answer(invoked, prepare, status, kind):
    found, (_, told) = invoked(prepare)
    assert (found, told.get("failureDetails", {}).get("type")) == (status, kind)
    assert ("continuationToken" in told) == (status == "continues")


def test_a_check_that_outlasts_the_function_is_waited_for(invoked):
    def prepare(stubber, client):
        def hang(**_):
            raise ReadTimeoutError(endpoint_url="lambda")

        _answers(PASSED)(stubber, client)
        client.meta.events.register("before-parameter-build.lambda.Invoke", hang)
        assert 700 < client.meta.config.read_timeout < 880
        assert client.meta.config.retries["total_max_attempts"] == 1

    assert invoked(prepare)[0] == "continues"


def test_the_time_runs_from_the_first_invocation(invoked):
    status, (_, told) = invoked(
        _raises("TooManyRequestsException"), _event(Progress(datetime.now(UTC) - timedelta(seconds=1), "r").to_json())
    )
    assert (status, told["failureDetails"]["type"]) == ("failed", "JobFailed")


def test_a_job_that_has_its_result_already_is_no_error(invoked, pipeline):
    def told_before(params, model, **_):
        return SimpleNamespace(status_code=400), {"Error": {"Code": "InvalidJobStateException", "Message": "x"}, "ResponseMetadata": {}}

    invoked(_answers(PASSED))
    pipeline[0].meta.events.register_first("before-call.codepipeline.*", told_before)
    assert invoked(_answers(PASSED))[0] == "succeeded"


def test_another_event_is_refused():
    with pytest.raises(PipelineError) as caught:
        handler({"detail-type": "Scheduled Event"}, SimpleNamespace(get_remaining_time_in_millis=lambda: 900_000))
    assert caught.value.code == "pipeline/no-job"
