"""AwaitAttestation: an action of CodePipeline that is over when every enclave of a monitor has attested."""

from __future__ import annotations

from aws_cdk import Duration
from aws_cdk import aws_codepipeline_actions as actions
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from nitrokit.cdk.known import need, need_one_region, seconds
from nitrokit.cdk.monitor_function import FunctionOptions, MonitorFunction

_TIMEOUT = Duration.minutes(15)
_WAIT = range(23 * 3600 + 1)  # seconds: CodePipeline ends an Invoke action after 24 hours (CodePipeline User Guide "Quotas")


class AwaitAttestation(Construct):
    """A Lambda for CodePipeline's Invoke action. It has ``check`` ask every enclave, and tells the job its result: success when all have passed in a run that began after the action did; failure
    as soon as one runs something else, and for those that could not be reached when ``wait`` is over.

    - ``check``: an AttestationMonitor's ``function``, or that function imported where the pipeline is another stack, of this Region.
    - ``wait``: default 30 minutes, at most 23 hours.
    - ``concurrency``: how many pipelines wait at once; default 5.
    - ``runtime``, ``architecture``: as of AttestationMonitor.

    ``alarms``: of the function; they have no action yet. Raises ValueError for a ``wait`` out of range, and for a function of another Region.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        check: lambda_.IFunction,
        wait: Duration | None = None,
        concurrency: int = 5,
        runtime: lambda_.Runtime | None = None,
        architecture: lambda_.Architecture | None = None,
    ) -> None:
        super().__init__(scope, id)
        need(lambda_.IFunction, check=check)
        need_one_region(self, check)
        longest = seconds("wait", wait or Duration.minutes(30), _WAIT)
        waiting = MonitorFunction(
            self,
            "Await",
            name="await_attestation",
            description="Ends a pipeline's action when every enclave has attested",
            environment={"CHECK_FUNCTION": check.function_arn, "WAIT_SECONDS": str(longest)},
            options=FunctionOptions(runtime, architecture),
            timeout=_TIMEOUT,
            concurrency=concurrency,
        )
        waiting.allow("lambda:InvokeFunction", on=[check.function_arn])
        self.function, self.alarms = waiting.function, waiting.alarms

    def action(self, name: str = "Attest") -> actions.LambdaInvokeAction:
        """The action, for a stage after the deployment: e.g. ``MeasurementGate.add_stages(attest=…)``. It lets the function tell the job's result."""
        return actions.LambdaInvokeAction(action_name=name, lambda_=self.function)
