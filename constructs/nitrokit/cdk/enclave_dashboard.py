"""EnclaveDashboard: what enclaves prove and how they are, on one CloudWatch dashboard."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import Duration
from aws_cdk import aws_cloudwatch as cloudwatch
from constructs import Construct

from nitrokit.cdk.attestation_monitor import NAMESPACE, AttestationMonitor
from nitrokit.cdk.enclave_bootstrap import EnclaveBootstrap
from nitrokit.cdk.enclave_fleet import EnclaveFleet
from nitrokit.cdk.enclave_host import EnclaveHost
from nitrokit.cdk.known import need_each, seconds
from nitrokit.core.reference_values import ReferenceValues

_WIDTH = 12
_PERIODS = range(60, 86_401, 60)
"""Seconds (CloudWatch API Reference "MetricStat", Period)."""
_COUNTS = {"EnclavesPassed": "as locked", "EnclavesFailed": "drift", "EnclavesUnreachable": "not reachable"}
_REASONS = (
    "fields @timestamp, verdict, run_id, failures.0.enclave, failures.0.instance_id, failures.0.code, failures.0.reason",
    'filter message = "checked"',
    "sort @timestamp desc",
    "limit 20",
)
"""Over the log of check_enclaves (CloudWatch Logs User Guide, "Supported logs and discovered fields": JSON arrays by index)."""


class EnclaveDashboard(Construct):
    """The state of all alarms; what is locked, and until when older sets are accepted; for each enclave its attestation, how many of it are as locked, and its health as the host agent tells it;
    what disagreed and why; then the parents. What the attestation report shows too, as it changes.

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
        need_each(AttestationMonitor, monitors=monitors)
        need_each(EnclaveBootstrap, bootstraps=bootstraps)
        need_each((EnclaveHost, EnclaveFleet), parents=parents)
        need_each(cloudwatch.IAlarm, alarms=alarms)
        self._period = Duration.minutes(5) if period is None else period
        seconds("period", self._period, _PERIODS)
        self.dashboard = cloudwatch.Dashboard(self, "Dashboard", period_override=cloudwatch.PeriodOverride.AUTO)
        shown = [*alarms, *(alarm for monitor in monitors for alarm in monitor.alarms)]
        if shown:
            self.dashboard.add_widgets(cloudwatch.AlarmStatusWidget(title="Alarms", alarms=shown, width=2 * _WIDTH))
        locked = {one.image.name: one.image.reference_values for one in bootstraps}
        if locked:
            text = "\n\n".join(_locked(name, values) for name, values in sorted(locked.items()))
            self.dashboard.add_widgets(cloudwatch.TextWidget(markdown=text, width=2 * _WIDTH, height=2 + 2 * len(locked)))
        verdicts = [metric.with_(label=name) for monitor in monitors for name, metric in monitor.metrics.items()]
        enclaves = {one.image.name: one for one in bootstraps}
        health = [enclaves[name].metric_healthy(period=self._period).with_(label=name) for name in sorted(enclaves)]
        self._graph(
            "Attested: 1 where every host proves the locked image", verdicts, "Healthy: 0 where a host's agent says otherwise", health
        )
        for monitor in monitors:
            self._add_checks(monitor)
        fleets = [one.metric_in_service().with_(label=one.node.id) for one in parents if isinstance(one, EnclaveFleet)]
        hosts = [one.metric_cpu_utilization().with_(label=one.node.id) for one in parents if isinstance(one, EnclaveHost)]
        self._graph("Fleets: instances in service", fleets, "Hosts: CPU of the parent, %", hosts)

    def _add_checks(self, monitor: AttestationMonitor) -> None:
        """How many enclaves passed, and what the last checks found."""
        counts = [
            cloudwatch.Metric(
                namespace=NAMESPACE,
                metric_name=metric,
                dimensions_map=monitor.dimensions(enclave),
                statistic="Maximum",
                period=self._period,
                label=f"{enclave}: {words}",
            )
            for enclave in monitor.metrics
            for metric, words in _COUNTS.items()
        ]
        reasons = cloudwatch.LogQueryWidget(
            title="Checks, and the first disagreement of each",
            log_group_names=[monitor.function.log_group.log_group_name],
            query_lines=list(_REASONS),
            width=_WIDTH,
        )
        self.dashboard.add_widgets(cloudwatch.GraphWidget(title="Enclaves by what they proved", left=counts, width=_WIDTH), reasons)

    def _graph(self, left: str, ones: Sequence[cloudwatch.IMetric], right: str, others: Sequence[cloudwatch.IMetric]) -> None:
        """A row of up to two graphs."""
        widgets = [
            cloudwatch.GraphWidget(title=title, left=list(metrics), width=_WIDTH, left_y_axis=cloudwatch.YAxisProps(min=0))
            for title, metrics in ((left, ones), (right, others))
            if metrics
        ]
        if widgets:
            self.dashboard.add_widgets(*widgets)


def _locked(name: str, values: ReferenceValues) -> str:
    """Markdown: an image's sets, by PCR0."""
    old = [f"until {one.retire_after:%Y-%m-%d %H:%M} UTC: `{one.measurements.pcr0.hex()}`" for one in values.retiring]
    return "  \n".join([f"**{name}** is locked to PCR0 `{values.current.pcr0.hex()}`", *old])
