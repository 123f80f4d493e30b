"""EnclaveDashboard: what enclaves prove and how they are, on one CloudWatch dashboard."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from nitrokit.cdk.attestation_monitor import AttestationMonitor
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_fleet import EnclaveFleet
from nitrokit.cdk.enclave_host import EnclaveHost

_NAMESPACE = "Nitrokit"  # of the host agent (nitrokit.host.cloudwatch)
_WIDTH = 12


class EnclaveDashboard(Construct):
    """The state of all alarms, then for each enclave its attestation and its health as the host agent tells it, then the parents.

    - ``monitors``: whose verdicts and alarms are shown. ``bootstraps``: the enclaves; ``parents``: their hosts and fleets. Default: none of each.
    - ``alarms``: further ones; default none.
    - ``period``: what a point stands for; default five minutes.
    """

    def __init__(
        self,
        scope: Construct,
        id: str,
        *,
        monitors: Sequence[AttestationMonitor] = (),
        bootstraps: Sequence[EnclaveBootstrap] = (),
        parents: Sequence[EnclaveHost | EnclaveFleet] = (),
        alarms: Sequence[cloudwatch.IAlarm] = (),
        period: Duration | None = None,
    ) -> None:
        super().__init__(scope, id)
        self._period = period or Duration.minutes(5)
        self.dashboard = cloudwatch.Dashboard(self, "Dashboard", period_override=cloudwatch.PeriodOverride.AUTO)
        shown = [*alarms, *(alarm for monitor in monitors for alarm in monitor.alarms)]
        if shown:
            self.dashboard.add_widgets(cloudwatch.AlarmStatusWidget(title="Alarms", alarms=shown, width=2 * _WIDTH))
        verdicts = [metric.with_(label=name) for monitor in monitors for name, metric in monitor.metrics.items()]
        health = [self._health(name) for name in sorted({bootstrap.image.name for bootstrap in bootstraps})]
        self._graph(
            "Attested: 1 where every host proves the locked image", verdicts, "Healthy: 0 where a host's agent says otherwise", health
        )
        fleets = [one.metric_in_service().with_(label=one.node.id) for one in parents if isinstance(one, EnclaveFleet)]
        hosts = [one.metric_cpu_utilization().with_(label=one.node.id) for one in parents if isinstance(one, EnclaveHost)]
        self._graph("Fleets: instances in service", fleets, "Hosts: CPU of the parent, %", hosts)

    def _health(self, enclave: str) -> cloudwatch.Metric:
        return cloudwatch.Metric(
            namespace=_NAMESPACE,
            metric_name="EnclaveHealthy",
            dimensions_map={"Enclave": enclave},
            statistic="Minimum",
            period=self._period,
            label=enclave,
        )

    def _graph(self, left: str, ones: Sequence[cloudwatch.IMetric], right: str, others: Sequence[cloudwatch.IMetric]) -> None:
        """A row of up to two graphs."""
        widgets = [
            cloudwatch.GraphWidget(title=title, left=list(metrics), width=_WIDTH, left_y_axis=cloudwatch.YAxisProps(min=0))
            for title, metrics in ((left, ones), (right, others))
            if metrics
        ]
        if widgets:
            self.dashboard.add_widgets(*widgets)
