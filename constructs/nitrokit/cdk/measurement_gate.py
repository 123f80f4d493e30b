"""MeasurementGate: nothing is deployed that two hosts did not build alike from reviewed locks, and a deployment is over when what runs has attested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aws_cdk import Acknowledgment, ArnFormat, Aws, Duration, Stack, Validations, pipelines
from aws_cdk import aws_codebuild as codebuild
from aws_cdk import aws_codepipeline as codepipeline
from aws_cdk import aws_codepipeline_actions as actions
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3 as s3
from constructs import Construct, IConstruct

from nitrokit.cdk.known import need, need_each, need_type, seconds
from nitrokit.cdk.wildcards import BUCKET_WRITES, acknowledge_wildcards
from nitrokit.gate.access import access_policy

INSTALL = ("python -m pip install --no-deps --require-hashes -r requirements.txt", "npm ci --no-audit --no-fund")
_BUILDERS = ("First", "Second")
_BUILD = (
    "mkdir -p built",
    'for lock in {images}/*/measurements.json; do image=$(dirname "$lock"); nitrokit build "$image" --check -o "built/$(basename "$image").eif" || exit $?; done',
    "(cd built && sha256sum ./*.eif > eifs.sha256 && rm -f ./*.eif)",
)  # fmt: skip
_RETIRE = 'for lock in {images}/*/measurements.json; do nitrokit lock "$(dirname "$lock")" --retire-all || exit $?; done'
_HEALTH = range(8 * 3600 + 1)  # seconds: the longest build (CodeBuild User Guide "Quotas for AWS CodeBuild")
_LANGUAGES = {"python": "3.13", "nodejs": "22"}


class MeasurementGate(Construct):
    """The drift gate for CDK Pipelines (``synth_step``, ``attested_step``, ``retire_step``) and for CodePipeline (``add_stages``).

    Every step is a CodeBuild build, whose exit code is the action's result: what fails ends the pipeline. ``AwaitAttestation`` is a Lambda in place of the build that waits for attested health.

    - ``images``: where the image folders lie in the source. Default: ``enclave_images``.
    - ``install``: commands that bring nitrokit and the CDK CLI. Default: hashed requirements.txt, with nitrokit's wheel in it (docs/gate.md), and package-lock.json.
    - ``synth``: what synthesises into ``cdk.out``. Default: ``npx cdk synth``.
    - ``health_timeout``: how long a step waits for enclaves that cannot be reached yet. Default: 30 minutes. Drift fails at once.
    - ``build_image``: default: CodeBuild's standard 7.0 (x86_64). Its compiler is not the one with which the kernel's recipe was recorded, and a compiler is part of a kernel's bytes: the source
      must hold a kernel then (NITROKIT_BLOBS), or this be an image of Debian 12 (docs/gate.md).
    - ``environment``: variables of every build. Default: none.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        images: str = "enclave_images",
        install: Sequence[str] = INSTALL,
        synth: str = "npx cdk synth --quiet --output cdk.out",
        health_timeout: Duration | None = None,
        build_image: codebuild.IBuildImage | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(scope, id)
        need(str, images=images, synth=synth)
        need_each(str, install=install)
        need_type(codebuild.IBuildImage, build_image=build_image)
        need_type(Mapping, environment=environment)
        self._images, self._install, self._synth = images, list(install), synth
        self._health = seconds("health_timeout", health_timeout or Duration.minutes(30), _HEALTH)
        image = build_image or codebuild.LinuxBuildImage.STANDARD_7_0
        self._environment = codebuild.BuildEnvironment(build_image=image)
        # Other images than CodeBuild's own have no languages to choose from (CodeBuild User Guide, "Build specification reference", runtime-versions).
        self._languages = {"runtime-versions": _LANGUAGES} if image.image_id.startswith("aws/codebuild/") else {}
        self._variables = dict(environment or {})
        self._steps: list[pipelines.CodeBuildStep] = []

    def synth_step(self, source: pipelines.IFileSetProducer) -> pipelines.CodeBuildStep:
        """For ``CodePipeline(synth=…)``: two builds on hosts of their own, compared; then synthesis and gate. Its output is ``cdk.out``."""
        built = {
            f"built-{name.lower()}": self._step(f"Build{name}", source, self._building(), primary_output_directory="built")
            for name in _BUILDERS
        }
        return self._step("Gate", source, self._gating(), additional_inputs=built, primary_output_directory="cdk.out")

    def attested_step(self, source: pipelines.IFileSetProducer, stack_name: str) -> pipelines.CodeBuildStep:
        """For ``add_stage(post=[…])``: waits until every enclave of the stack has attested, and fails for any that runs something else."""
        return self._step(f"Attest{stack_name}", source, self._attesting(stack_name), role_policy_statements=self._reading(stack_name))

    def retire_step(self, source: pipelines.IFileSetProducer, stack_name: str) -> pipelines.CodeBuildStep:
        """After ``attested_step``: when every enclave runs the current set, the stack is deployed with that alone. The committed lock may go on naming the old one: that is wider than what is
        deployed, and `nitrokit lock --retire` drops it in a commit. Of no use for sealed keys, which retire a set by its date.
        """
        statements = [*self._reading(stack_name), self._deploying()]
        return self._step(f"Retire{stack_name}", source, self._retiring(stack_name), role_policy_statements=statements)

    def acknowledge_steps(self, pipeline: pipelines.CodePipeline) -> None:
        """Tell cdk-nag why the builds of these steps may do what they may. After ``pipeline.build_pipeline()``: the CDK makes them there. What it finds in the rest of the pipeline is its owner's."""
        for step in self._steps:
            self._acknowledge(step.project, step.role_policy_statements or [])
            _acknowledge_artifacts(step.project, pipeline.pipeline.artifact_bucket)

    def add_stages(
        self,
        pipeline: codepipeline.Pipeline,
        source: codepipeline.Artifact,
        *,
        stack_name: str,
        deploy: Sequence[codepipeline.IAction],
        assembly: codepipeline.Artifact | None = None,
        attest: codepipeline.IAction | None = None,
        retire: bool = False,
    ) -> None:
        """For a pipeline that has its source stage: Build, Gate, Deploy (``deploy``: the caller's actions), Attest and, if wanted, Retire. ``assembly``: what ``cdk.out`` becomes, for ``deploy``;
        ``attest``: what waits for attested health, e.g. ``AwaitAttestation.action()``; default: a build that runs the gate over the stack.
        """
        built = [codepipeline.Artifact(f"Built{name}") for name in _BUILDERS]
        builds = [
            self._action(f"Build{name}", source, self._building(), output=artifact, folder="built")
            for name, artifact in zip(_BUILDERS, built, strict=True)
        ]
        gating = [f'ln -s "$CODEBUILD_SRC_DIR_Built{name}" built-{name.lower()}' for name in _BUILDERS]
        gate = self._action(
            "Gate",
            source,
            [*gating, *self._gating()],
            extra_inputs=built,
            output=assembly or codepipeline.Artifact("Assembly"),
            folder="cdk.out",
        )
        attest = attest or self._action("Attest", source, self._attesting(stack_name), statements=self._reading(stack_name))
        stages: list[tuple[str, Sequence[codepipeline.IAction]]] = [
            ("Build", builds),
            ("Gate", [gate]),
            ("Deploy", deploy),
            ("Attest", [attest]),
        ]
        if retire:
            statements = [*self._reading(stack_name), self._deploying()]
            stages.append(("Retire", [self._action("Retire", source, self._retiring(stack_name), statements=statements)]))
        for name, found in stages:
            pipeline.add_stage(stage_name=name, actions=list(found))
        _acknowledge_artifacts(self, pipeline.artifact_bucket)

    def _building(self) -> list[str]:
        return [line.replace("{images}", self._images) for line in _BUILD]

    def _gating(self) -> list[str]:
        compare = "diff built-first/eifs.sha256 built-second/eifs.sha256"
        return [compare, self._synth, f"nitrokit gate {self._images} --templates cdk.out --output gate.xml"]

    def _attesting(self, stack_name: str) -> list[str]:
        return [f"nitrokit gate {self._images} --stack {stack_name} --wait {self._health} --output gate.xml"]

    def _retiring(self, stack_name: str) -> list[str]:
        settled = f"nitrokit gate {self._images} --stack {stack_name} --only enclave --settled --output gate.xml"
        return [settled, _RETIRE.replace("{images}", self._images), f"npx cdk deploy {stack_name} --exclusively --require-approval never"]

    def _reading(self, stack_name: str) -> list[iam.PolicyStatement]:
        stack = Stack.of(self)
        policy = access_policy(stack_name, account=stack.account, region=stack.region, partition=Aws.PARTITION)
        return [iam.PolicyStatement.from_json(statement) for statement in policy["Statement"]]

    def _deploying(self) -> iam.PolicyStatement:
        """The roles of the modern bootstrap do what a deployment needs."""
        kinds = ("deploy", "file-publishing", "lookup")
        arns = [f"arn:{Aws.PARTITION}:iam::{Stack.of(self).account}:role/cdk-*-{kind}-role-*" for kind in kinds]
        return iam.PolicyStatement(actions=["sts:AssumeRole"], resources=arns)

    def _step(self, name: str, source: pipelines.IFileSetProducer, commands: list[str], **more: Any) -> pipelines.CodeBuildStep:
        step = pipelines.CodeBuildStep(
            name,
            input=source,
            install_commands=self._install,
            commands=commands,
            build_environment=self._environment,
            env=self._variables,
            partial_build_spec=codebuild.BuildSpec.from_object(
                {"phases": {"install": self._languages} if self._languages else {}, **_REPORTS}
            ),
            **more,
        )
        self._steps.append(step)
        return step

    def _action(
        self,
        name: str,
        source: codepipeline.Artifact,
        commands: list[str],
        *,
        extra_inputs: Sequence[codepipeline.Artifact] = (),
        output: codepipeline.Artifact | None = None,
        folder: str | None = None,
        statements: Sequence[iam.PolicyStatement] = (),
    ) -> codepipeline.IAction:
        spec = {
            "version": "0.2",
            "phases": {"install": {**self._languages, "commands": self._install}, "build": {"commands": commands}},
            **({"artifacts": {"base-directory": folder, "files": "**/*"}} if folder else {}),
            **_REPORTS,
        }
        project = codebuild.PipelineProject(
            self,
            name,
            build_spec=codebuild.BuildSpec.from_object(spec),
            environment=self._environment,
            environment_variables={key: codebuild.BuildEnvironmentVariable(value=value) for key, value in self._variables.items()},
            description=f"nitrokit's gate: {name}",
        )
        for statement in statements:
            project.add_to_role_policy(statement)
        self._acknowledge(project, statements)
        return actions.CodeBuildAction(
            action_name=name, project=project, input=source, extra_inputs=list(extra_inputs) or None, outputs=[output] if output else None
        )

    def _acknowledge(self, project: codebuild.IProject, statements: Sequence[iam.PolicyStatement]) -> None:
        """``statements``, and what the CDK lets a project of a pipeline do."""
        found = [resource for one in statements for resource in one.resources if "*" in resource]
        acknowledge_wildcards(project, *found, reason="what the gate reads is found by the stack's name (nitrokit.gate.access)")
        stack = Stack.of(self)
        logs = stack.format_arn(
            service="logs",
            resource="log-group",
            resource_name=f"/aws/codebuild/{project.project_name}:*",
            arn_format=ArnFormat.COLON_RESOURCE_NAME,
        )
        reports = stack.format_arn(service="codebuild", resource="report-group", resource_name=f"{project.project_name}-*")
        acknowledge_wildcards(project, logs, reports, reason="logs and reports of this project alone")
        reason = "what it makes is an artifact of the pipeline, encrypted as the pipeline's bucket is"
        Validations.of(project).acknowledge(Acknowledgment(id="AwsSolutions-CB4", reason=reason))


def _acknowledge_artifacts(scope: IConstruct, bucket: s3.IBucket) -> None:
    reason = "each build takes its sources from the pipeline's artifacts and puts its own there"
    acknowledge_wildcards(scope, *BUCKET_WRITES, bucket.arn_for_objects("*"), reason=reason)


_REPORTS = {"reports": {"gate": {"files": ["gate.xml"], "file-format": "JUNITXML"}}}
