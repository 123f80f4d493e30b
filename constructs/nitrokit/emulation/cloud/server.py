"""The local AWS: one loopback port for everything, one with TLS for KMS, and what runs behind them."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from nitrokit.core.attestation import TrustAnchor
from nitrokit.emulation.cloud import automation, autoscaling, cloudformation, compliance, events, metadata, patching
from nitrokit.emulation.cloud.identity import Identities, Keys
from nitrokit.emulation.cloud.kms import TARGET, KmsEvent, KmsFront
from nitrokit.emulation.cloud.lambdas import Lambdas, base_environment
from nitrokit.emulation.cloud.ssm import SystemsManager
from nitrokit.emulation.cloud.tls import TlsAuthority
from nitrokit.emulation.interfaces import InstanceDescription, InstanceHost

InstanceFactory = Callable[[InstanceDescription], InstanceHost]
Start = Callable[[str, list[tuple[str, str]]], object]


class LocalCloud:
    """moto and helpers in this process. ``trust_anchor``: the root that KMS trusts for attestation documents; ``instance_factory`` makes an instance's host when something first runs on it."""

    def __init__(
        self,
        work: Path,
        *,
        region: str,
        account: str,
        trust_anchor: TrustAnchor,
        instance_factory: InstanceFactory,
        now: Callable[[], datetime],
        note: Callable[[str], None],
    ) -> None:
        self.region, self.account, self._work = region, account, work
        self._instance_factory = instance_factory
        self._hosts: dict[str, tuple[InstanceHost, Mapping[str, str]]] = {}
        self._hosts_lock = threading.Lock()
        self._servers: list[Any] = []
        self._restores: list[Callable[[], None]] = []
        self.tls = TlsAuthority()
        self.identities = Identities(account, region)
        self._metadata = metadata.Metadata(self.identities)
        self._systems_manager = SystemsManager(self._host, self._document, note)
        self.lambdas = Lambdas(work / "lambda", self._function_environment)
        self._moto = _moto_application()
        self._kms = KmsFront(
            identities=self.identities, trust_anchor=trust_anchor, now=now, account=account, region=region, forward=self._forward_kms
        )
        try:
            self._install()
            self.port = self._listen(self._application, None)
            self.kms_port = self._listen(self._kms_application, self.tls.server_context(self.kms_host))
        except BaseException:
            self.close()
            raise

    @property
    def kms_host(self) -> str:
        return f"kms.{self.region}.amazonaws.com"

    @property
    def routes(self) -> dict[str, tuple[str, int]]:
        """``host:port`` → loopback address, where AWS's DNS would lead."""
        return {f"{self.kms_host}:443": ("127.0.0.1", self.kms_port)}

    @property
    def endpoint_url(self) -> str:
        # By name: moto takes localhost, not 127.0.0.1, for its own S3.
        return f"http://localhost:{self.port}"

    @property
    def kms_events(self) -> list[KmsEvent]:
        return list(self._kms.events)

    def environment(self, keys: Keys | None = None) -> dict[str, str]:
        """What AWS clients and the CDK need to talk to this cloud and to nothing else."""
        keys = keys or self.identities.operator
        environment = {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": keys.access_key_id,
            "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "CDK_DEFAULT_ACCOUNT": self.account,
            "CDK_DEFAULT_REGION": self.region,
            "CDK_HOME": str(self._work / "cdk-home"),
            "CDK_DISABLE_CLI_TELEMETRY": "1",
        }
        return environment if keys.session_token is None else {**environment, "AWS_SESSION_TOKEN": keys.session_token}

    def client(self, service: str, keys: Keys | None = None) -> Any:
        """A boto3 client of this cloud."""
        import boto3
        from botocore.config import Config

        keys = keys or self.identities.operator
        return boto3.client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=keys.access_key_id,
            aws_secret_access_key=keys.secret_access_key,
            aws_session_token=keys.session_token,
            config=Config(retries={"max_attempts": 1}, read_timeout=300, s3={"addressing_style": "path"}),
        )

    def _install(self) -> None:
        from moto.awslambda.models import LambdaFunction
        from moto.ssm.models import SimpleSystemManagerBackend

        self._restores.append(
            cloudformation.install(self._systems_manager, self._put_key_policy, lambda: self.endpoint_url, self.lambdas.invoke)
        )
        self._restores.append(events.install(self.lambdas.invoke))
        self._restores.append(compliance.install())
        self._restores.append(autoscaling.install())
        runbooks = automation.Automation(self._systems_manager.content, lambda: self.client("ssm"))
        self._restores.append(automation.install(runbooks))

        def invoke(function: Any, event: Any = None) -> Any:
            return self.lambdas.invoke(function, event)

        self._restores.append(patching.put(LambdaFunction, _invoke_lambda=invoke))
        send = self._send_command(SimpleSystemManagerBackend.send_command)
        self._restores.append(patching.put(SimpleSystemManagerBackend, send_command=send))

    def _put_key_policy(self, key_id: str, policy: str) -> None:
        """As CloudFormation does it: under the role that modern bootstrap gives it."""
        role = f"arn:aws:iam::{self.account}:role/cdk-hnb659fds-cfn-exec-role-{self.account}-{self.region}"
        client = self.client("kms", self.identities.for_role(role, "AWSCloudFormation"))
        client.put_key_policy(KeyId=key_id, PolicyName="default", Policy=policy, BypassPolicyLockoutSafetyCheck=True)

    def _send_command(self, original: Callable[..., Any]) -> Callable[..., Any]:
        systems_manager = self._systems_manager

        def send_command(backend: Any, *, instance_ids: list[str], targets: list[Any], **named: Any) -> Any:
            asked = [*instance_ids]
            command = original(backend, instance_ids=instance_ids, targets=targets, **named)
            if not targets:  # moto takes no target for every instance
                command.instance_ids = asked
                command.invocations = [one for one in command.invocations if one["InstanceId"] in asked]
            command.status = command.status_details = "InProgress"
            for invocation in command.invocations:
                invocation.update(Status="InProgress", StatusDetails="InProgress", ResponseCode=-1)

            def finished() -> None:
                worst = next((one["Status"] for one in command.invocations if one["Status"] != "Success"), "Success")
                command.status = command.status_details = worst

            systems_manager.start(command, finished)
            return command

        return send_command

    def _document(self, name: str) -> str:
        content: str = self.client("ssm").get_document(Name=name)["Content"]
        return content

    def _host(self, instance_id: str) -> tuple[InstanceHost, Mapping[str, str]]:
        """An instance's host, made at first use, and what the SSM agent adds to a script's environment."""
        from moto.ec2.models import ec2_backends

        with self._hosts_lock:
            if instance_id not in self._hosts:
                instance = ec2_backends[self.account][self.region].get_instance(instance_id)
                description = InstanceDescription(
                    instance_id,
                    self.region,
                    self.account,
                    self._role_of(getattr(instance, "profile_name", None)),
                    bool(getattr(instance, "enclave_enabled", False)),
                    {
                        "AWS_ENDPOINT_URL": self.endpoint_url,
                        "AWS_REGION": self.region,
                        "AWS_DEFAULT_REGION": self.region,
                        "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://127.0.0.1:{self.port}{metadata.PREFIX}{instance_id}/",
                    },
                    self.routes,
                )
                self._metadata.add(description)
                agent = {"AWS_SSM_INSTANCE_ID": instance_id, "AWS_SSM_REGION_NAME": self.region}
                self._hosts[instance_id] = (self._instance_factory(description), agent)
            return self._hosts[instance_id]

    def _role_of(self, profile_name: str | None) -> str | None:
        from moto.iam.models import iam_backends

        if profile_name is None:
            return None
        roles = iam_backends[self.account]["aws"].get_instance_profile(profile_name.rsplit("/", 1)[-1]).roles
        return str(roles[0].arn) if roles else None

    def _function_environment(self, role_arn: str, name: str) -> dict[str, str]:
        keys = self.identities.for_role(role_arn, name)
        return {**base_environment(), **self.environment(keys), "AWS_EXECUTION_ENV": "AWS_Lambda_python"}

    def _listen(self, application: Callable[..., Iterable[bytes]], context: Any) -> int:
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            protocol_version = "HTTP/1.1"

            def log(self, *_: Any) -> None:
                pass

        server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet, ssl_context=context)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        self._servers.append(server)
        return int(server.server_port)

    def _application(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        if environ.get("HTTP_X_AMZ_TARGET", "").startswith(TARGET):
            return self._kms_application(environ, start)
        path = environ.get("PATH_INFO", "")
        if path.startswith(metadata.PREFIX):
            status, body = self._metadata.answer(
                environ["REQUEST_METHOD"], path.removeprefix(metadata.PREFIX), environ.get("HTTP_X_AWS_EC2_METADATA_TOKEN")
            )
            return _respond(start, status, {"Content-Type": "text/plain"}, body)
        answer: Iterable[bytes] = self._moto(environ, start)
        return answer

    def _kms_application(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        headers = {name[5:].replace("_", "-"): value for name, value in environ.items() if name.startswith("HTTP_")}
        headers["CONTENT-TYPE"] = environ.get("CONTENT_TYPE", "")
        url = f"{environ['wsgi.url_scheme']}://{environ.get('HTTP_HOST', 'localhost')}{environ.get('PATH_INFO') or '/'}"
        status, answer_headers, answer = self._kms.answer(environ["REQUEST_METHOD"], url, headers, body)
        return _respond(start, status, answer_headers, answer)

    def _forward_kms(self, target: str, body: bytes) -> tuple[int, bytes]:
        """A KMS request that was allowed, to moto."""
        credential = f"{self.identities.operator.access_key_id}/20200101/{self.region}/kms/aws4_request"
        environ = {
            "REQUEST_METHOD": "POST", "PATH_INFO": "/", "QUERY_STRING": "", "SERVER_NAME": "localhost", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http",
            "HTTP_HOST": self.kms_host, "HTTP_X_AMZ_TARGET": target, "CONTENT_TYPE": "application/x-amz-json-1.1", "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body),
            "HTTP_AUTHORIZATION": f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders=host, Signature=0", "wsgi.errors": io.StringIO(), "wsgi.version": (1, 0),
            "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False,
        }  # fmt: skip
        seen: list[int] = []
        chunks = self._moto(environ, lambda status, headers, _=None: seen.append(int(status.split()[0])))
        return (seen or [500])[0], b"".join(chunks)

    def close(self) -> None:
        """Stop everything; what moto holds for this process is forgotten, so that the next cloud starts empty."""
        from moto.moto_api._internal import moto_api_backend

        for server in self._servers:
            server.shutdown()
            server.server_close()
        self.lambdas.close()
        for host, _ in self._hosts.values():
            host.close()
        self._hosts.clear()
        for restore in reversed(self._restores):
            restore()
        self._restores.clear()
        moto_api_backend.reset()


def _moto_application() -> Any:
    os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "true")
    from moto.backends import list_of_moto_modules  # noqa: F401
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    return DomainDispatcherApplication(create_backend_app)


def _respond(start: Start, status: int, headers: Mapping[str, str], body: bytes) -> list[bytes]:
    start(f"{status} {'OK' if status < 400 else 'Error'}", [*headers.items(), ("Content-Length", str(len(body)))])
    return [body]
