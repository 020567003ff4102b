//! The Prometheus page, through prometheus-client's encoder.
//!
//! Envoy's counters carry no `_total`, which OpenMetrics demands of counters: there they are of type `unknown`. In the older
//! text form, which has no such rule, they are counters again.

use std::fmt::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::counter::{BOUNDS, HistogramTotal};
use super::families::{
    AUTHORIZATION, CLASSES, CLUSTER, CLUSTER_STATE, EXT_AUTHZ, JWT, LISTENER, MANAGER, RATE_LIMIT, Stat,
};
use super::labels::IstioLabels;
use super::process;
use super::request::Protocol;
use super::totals::{RequestTotal, Totals};
use crate::error::Reason;

mod classic;

/// The form of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exposition {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' older text form, 0.0.4.
    Classic,
}

impl Exposition {
    /// The form that a scraper asks for by `accept`.
    pub(crate) fn negotiate(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Classic }
    }

    /// `content-type`.
    pub(crate) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Appends everything.
pub(super) fn encode(out: &mut String, form: Exposition, totals: Totals) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(totals));
    // Writing to a String does not fail.
    let _ = match form {
        Exposition::OpenMetrics => text::encode(out, &registry),
        Exposition::Classic => {
            let mut page = String::new();
            text::encode_registry(&mut page, &registry).map(|()| classic::convert(&page, out))
        }
    };
}

impl Collector for Totals {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let page = &mut Page { encoder: &mut encoder };
        self.requests(page)?;
        self.connections(page)?;
        self.clusters(page)?;
        self.cluster_statuses(page)?;
        self.managers(page)?;
        self.listeners(page)?;
        self.authorizations(page)?;
        self.server(page)?;
        self.process(page)?;
        self.own(page)?;
        self.overload(page)?;
        self.identity(page)?;
        self.own_config(page)
    }
}

/// A family of request series: name, help, and where its number is.
type Family<'a, T> = (&'static str, &'static str, fn(&'a RequestTotal) -> T);

/// The page being written.
struct Page<'a, 'b> {
    encoder: &'a mut DescriptorEncoder<'b>,
}

impl Page<'_, '_> {
    fn family(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        write: impl FnOnce(&mut MetricEncoder<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        write(&mut self.encoder.encode_descriptor(name, help, None, kind)?)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        self.family(name, help, MetricType::Gauge, |metric| metric.encode_gauge(&value))
    }

    /// A counter under OpenMetrics' rule: `_total` is added to the name.
    fn counter(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        self.family(name, help, MetricType::Counter, |metric| {
            metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }

    /// A number under Envoy's name for everything that `blocks` yields, with one label.
    fn stat<'a, T: 'a, B: Iterator<Item = &'a T>>(
        &mut self,
        prefix: &str,
        stat: &Stat<T>,
        label: &str,
        blocks: impl Iterator<Item = (&'a str, B)>,
    ) -> Result<(), Error> {
        let name = format!("{prefix}{}", stat.name);
        let kind = if stat.gauge { MetricType::Gauge } else { MetricType::Unknown };
        self.family(&name, stat.help, kind, |metric| {
            for (value, blocks) in blocks {
                metric.encode_family(&[(label, value)])?.encode_gauge(&stat.sum(blocks))?;
            }
            Ok(())
        })
    }
}

impl Totals {
    fn requests(&self, page: &mut Page<'_, '_>) -> Result<(), Error> {
        page.family("istio_requests", "Requests", MetricType::Counter, |metric| {
            for (labels, total) in self.series(false) {
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&total.count, None)?;
            }
            Ok(())
        })?;
        let families: [Family<'_, &HistogramTotal>; 3] = [
            ("istio_request_duration_milliseconds", "Time until the response's end", |total| &total.duration),
            ("istio_request_bytes", "Body bytes of requests", |total| &total.request_bytes),
            ("istio_response_bytes", "Body bytes of responses", |total| &total.response_bytes),
        ];
        for (name, help, read) in families {
            page.family(name, help, MetricType::Histogram, |metric| {
                for (labels, total) in self.series(false) {
                    histogram(metric, &labels, read(total))?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn connections(&self, page: &mut Page<'_, '_>) -> Result<(), Error> {
        let families: [Family<'_, f64>; 4] = [
            ("istio_tcp_connections_opened", "TCP connections begun", |total| total.opened as f64),
            ("istio_tcp_connections_closed", "TCP connections ended", |total| total.count as f64),
            ("istio_tcp_received_bytes", "Bytes received from clients", |total| total.request_bytes.sum()),
            ("istio_tcp_sent_bytes", "Bytes sent to clients", |total| total.response_bytes.sum()),
        ];
        for (name, help, read) in families {
            page.family(name, help, MetricType::Counter, |metric| {
                for (labels, total) in self.series(true) {
                    let value = read(total);
                    metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The series of connections, or those of exchanges.
    fn series(&self, tcp: bool) -> impl Iterator<Item = (IstioLabels<'_>, &RequestTotal)> {
        let series =
            self.requests.iter().filter(move |(labels, _)| (labels.protocol == Protocol::Tcp) == tcp);
        series.map(|(labels, total)| (IstioLabels::new(labels, &self.local), total))
    }

    fn clusters(&self, page: &mut Page<'_, '_>) -> Result<(), Error> {
        for stat in &CLUSTER {
            let clusters = self.clusters.iter().map(|cluster| (&*cluster.name, cluster.used_blocks()));
            page.stat("envoy_cluster_", stat, "envoy_cluster_name", clusters)?;
        }
        for stat in &CLUSTER_STATE {
            let clusters = self.inputs.clusters.iter();
            let clusters = clusters.map(|state| (&*state.name, std::iter::once(state)));
            page.stat("envoy_cluster_", stat, "envoy_cluster_name", clusters)?;
        }
        Ok(())
    }

    fn cluster_statuses(&self, page: &mut Page<'_, '_>) -> Result<(), Error> {
        page.family("envoy_cluster_upstream_rq_xx", "Responses by class", MetricType::Unknown, |metric| {
            for cluster in &self.clusters {
                for (index, class) in CLASSES.iter().enumerate() {
                    let count: u64 = cluster.used_blocks().map(|block| block.classes[index].get()).sum();
                    let labels =
                        [("envoy_response_code_class", *class), ("envoy_cluster_name", &cluster.name)];
                    metric.encode_family(&labels)?.encode_gauge(&count)?;
                }
            }
            Ok(())
        })?;
        page.family("envoy_cluster_upstream_rq", "Responses by status", MetricType::Unknown, |metric| {
            for cluster in &self.clusters {
                for (code, count) in cluster.codes() {
                    let code = code.to_string();
                    let labels = [("envoy_response_code", &*code), ("envoy_cluster_name", &cluster.name)];
                    metric.encode_family(&labels)?.encode_gauge(&count)?;
                }
            }
            Ok(())
        })?;
        let help = "Milliseconds until the response head";
        page.family("envoy_cluster_upstream_rq_time", help, MetricType::Histogram, |metric| {
            for cluster in &self.clusters {
                histogram(metric, &[("envoy_cluster_name", &*cluster.name)], &cluster.time())?;
            }
            Ok(())
        })
    }

    fn managers(&self, page: &mut Page<'_, '_>) -> Result<(), Error> {
        const LABEL: &str = "envoy_http_conn_manager_prefix";
        let managers = || self.managers.iter().map(|(name, blocks)| (&**name, blocks.iter().map(|b| &**b)));
        for stat in &MANAGER {
            page.stat("envoy_http_", stat, LABEL, managers())?;
        }
        for stat in &RATE_LIMIT {
            let label = "envoy_local_http_ratelimit_prefix";
            page.stat("envoy_http_local_rate_limit_", stat, label, managers())?;
        }
        for (prefix, stats) in [("jwt_authn", &JWT[..]), ("ext_authz", &EXT_AUTHZ[..])] {
            for stat in stats {
                page.stat(&format!("envoy_http_{prefix}_"), stat, LABEL, managers())?;
            }
        }
        page.family("envoy_http_downstream_rq_xx", "Responses by class", MetricType::Unknown, |metric| {
            for (name, blocks) in &self.managers {
                for (index, class) in CLASSES.iter().enumerate() {
                    let count: u64 = blocks.iter().map(|block| block.classes[index].get()).sum();
                    let labels = [("envoy_response_code_class", *class), (LABEL, name)];
                    metric.encode_family(&labels)?.encode_gauge(&count)?;
                }
            }
            Ok(())
        })?;
        let help = "Milliseconds of whole exchanges";
        page.family("envoy_http_downstream_rq_time", help, MetricType::Histogram, |metric| {
            for (name, blocks) in &self.managers {
                let mut total = HistogramTotal::default();
                blocks.iter().for_each(|block| total.add(&block.time));
                histogram(metric, &[(LABEL, &**name)], &total)?;
            }
            Ok(())
        })
    }

    fn listeners(&self, page: &mut Page<'_, '_>) -> Result<(), Error> {
        for stat in &LISTENER {
            let listeners =
                self.listeners.iter().map(|(name, blocks)| (&**name, blocks.iter().map(|block| &**block)));
            page.stat("envoy_listener_", stat, "envoy_listener_address", listeners)?;
        }
        let help = "Listeners bound";
        page.gauge("envoy_listener_manager_total_listeners_active", help, self.inputs.listeners as f64)
    }

    fn authorizations(&self, page: &mut Page<'_, '_>) -> Result<(), Error> {
        let roads = [
            (true, "envoy_http_rbac_", "envoy_http_conn_manager_prefix"),
            (false, "envoy_tcp_rbac_", "envoy_tcp_prefix"),
        ];
        for (http, family, label) in roads {
            for stat in &AUTHORIZATION {
                page.family(&format!("{family}{}", stat.name), stat.help, MetricType::Unknown, |metric| {
                    for (scope, blocks) in self.authorizations.iter().filter(|(scope, _)| scope.http == http)
                    {
                        let count = stat.sum(blocks.iter().map(|block| &**block));
                        let labels = [(label, &*scope.owner), ("envoy_rbac_rules_prefix", &*scope.prefix)];
                        // Most have no prefix of their own.
                        let labels = if scope.prefix.is_empty() { &labels[..1] } else { &labels[..] };
                        metric.encode_family(&labels)?.encode_gauge(&count)?;
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    fn server(&self, page: &mut Page<'_, '_>) -> Result<(), Error> {
        let live = f64::from(u8::from(self.inputs.state == 0));
        page.gauge("envoy_server_live", "1 when serving and not draining", live)?;
        let help = "0 live, 1 draining, 2 before initialisation, 3 initialising";
        page.gauge("envoy_server_state", help, self.inputs.state as f64)?;
        page.gauge("envoy_server_uptime", "Seconds since the start", self.uptime())?;
        page.gauge("envoy_server_concurrency", "Worker threads", self.inputs.concurrency as f64)?;
        let connected = f64::from(u8::from(self.config.connected));
        let help = "1 while the stream to the control plane is open";
        page.gauge("envoy_control_plane_connected_state", help, connected)?;
        let clusters = self.inputs.clusters.len() as f64;
        page.gauge("envoy_cluster_manager_active_clusters", "Clusters configured", clusters)
    }

    fn process(&self, page: &mut Page<'_, '_>) -> Result<(), Error> {
        let started = self.started.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        page.gauge("process_start_time_seconds", "When the process began", started.as_secs_f64())?;
        let Some(process) = process::read() else { return Ok(()) };
        page.gauge("process_resident_memory_bytes", "Resident memory", process.resident_bytes as f64)?;
        page.gauge("process_open_fds", "Open file descriptors", process.open_files as f64)?;
        page.counter("process_cpu_seconds", "Processor time", process.cpu_seconds)
    }

    fn own(&self, page: &mut Page<'_, '_>) -> Result<(), Error> {
        let help = "Replies that the proxy made itself, and connections that it ended, by reason";
        page.family("sidegate_reasons", help, MetricType::Counter, |metric| {
            for (reason, count) in Reason::ALL.iter().zip(self.reasons.0) {
                let labels = [("reason", reason.label())];
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&count, None)?;
            }
            Ok(())
        })?;
        let help = "Error replies that /why can explain";
        page.gauge("sidegate_reasons_remembered", help, self.reasons_remembered as f64)?;
        let help = "Error replies that had to make room for newer ones in /why";
        page.counter("sidegate_reasons_forgotten", help, self.reasons_forgotten as f64)?;
        page.counter("sidegate_panics", "Defects that ended a task", self.panics as f64)?;
        let help = "Times that something was counted under the series named overflow, for want of room";
        page.counter("sidegate_series_overflow", help, self.series_overflow as f64)?;
        let help = "Access log lines by what became of them";
        page.family("sidegate_access_log_lines", help, MetricType::Counter, |metric| {
            let log = self.log;
            for (result, count) in
                [("written", log.written), ("dropped", log.dropped), ("failed", log.failed)]
            {
                metric
                    .encode_family(&[("result", result)])?
                    .encode_counter::<NoLabelSet, _, f64>(&count, None)?;
            }
            Ok(())
        })
    }

    /// Under Envoy's names what it would say of a `fixed_heap` monitor, under ours the bytes. Nothing without a ceiling.
    fn overload(&self, page: &mut Page<'_, '_>) -> Result<(), Error> {
        let report = self.inputs.overload;
        if report.ceiling == 0 {
            return Ok(());
        }
        let help = "Memory used, in percent of the ceiling";
        let name = "envoy_overload_envoy_resource_monitors_fixed_heap_pressure";
        page.gauge(name, help, report.percent() as f64)?;
        let name = "envoy_overload_envoy_resource_monitors_fixed_heap_failed_updates";
        let help = "Looks at memory that told nothing";
        page.family(name, help, MetricType::Unknown, |metric| {
            metric.encode_gauge(&(report.failed_samples as f64))
        })?;
        for (action, active) in &self.inputs.overload_actions {
            let name = format!("envoy_overload_envoy_overload_actions_{action}_active");
            page.gauge(&name, "1 while memory is scarce enough for it", f64::from(u8::from(*active)))?;
        }
        page.gauge("sidegate_overload_memory_bytes", "Memory used, as it counts", report.used as f64)?;
        let help = "Memory near which new work is refused";
        page.gauge("sidegate_overload_ceiling_bytes", help, report.ceiling as f64)
    }

    /// The proxy's own certificate. Nothing without one to be; 0 for one that is not in force, so that every rule about time sees it.
    fn identity(&self, page: &mut Page<'_, '_>) -> Result<(), Error> {
        let Some(identity) = &self.inputs.identity else { return Ok(()) };
        let help = "When the proxy's own certificate expires, in seconds since 1970; 0 when none is in force";
        page.gauge("sidegate_identity_expiry_seconds", help, identity.expiry.unwrap_or_default() as f64)?;
        let help = "When the first root of the own trust domain expires, in seconds since 1970";
        let roots = identity.roots_expiry.unwrap_or_default() as f64;
        page.gauge("sidegate_identity_roots_expiry_seconds", help, roots)?;
        let help = "Attempts to get a certificate, by what came of them";
        page.family("sidegate_identity_renewals", help, MetricType::Counter, |metric| {
            for (result, count) in &identity.attempts {
                metric
                    .encode_family(&[("result", *result)])?
                    .encode_counter::<NoLabelSet, _, f64>(count, None)?;
            }
            Ok(())
        })
    }

    fn own_config(&self, page: &mut Page<'_, '_>) -> Result<(), Error> {
        let config = &self.config;
        page.gauge("sidegate_config_version", "The snapshot in force", config.version as f64)?;
        let help = "When the snapshot in force was published";
        page.gauge("sidegate_config_last_update_seconds", help, config.updated_seconds)?;
        page.counter("sidegate_config_updates", "Snapshots published", config.publications as f64)?;
        page.counter("sidegate_config_rejected_resources", "Resources refused", config.rejections as f64)?;
        page.counter("sidegate_xds_connects", "Streams opened to the control plane", config.connects as f64)?;
        let help = "When the first certificate of a secret or file expires, in seconds since 1970";
        page.family("sidegate_certificate_expiry_seconds", help, MetricType::Gauge, |metric| {
            for (source, expiry) in &self.inputs.certificates {
                metric.encode_family(&[("source", &**source)])?.encode_gauge(&(*expiry as f64))?;
            }
            Ok(())
        })?;
        page.family("sidegate_build", "What runs", MetricType::Info, |metric| {
            metric.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])
        })
    }

    /// Seconds since the start.
    pub(super) fn uptime(&self) -> f64 {
        let since = self.started.and_then(|at| SystemTime::now().duration_since(at).ok());
        since.map_or(0.0, |since| since.as_secs_f64().floor())
    }
}

fn histogram(
    metric: &mut MetricEncoder<'_>,
    labels: &impl EncodeLabelSet,
    total: &HistogramTotal,
) -> Result<(), Error> {
    let mut buckets = [(f64::INFINITY, 0); BOUNDS.len() + 1];
    for (bucket, count) in buckets.iter_mut().zip(total.buckets) {
        bucket.1 = count;
    }
    for (bucket, bound) in buckets.iter_mut().zip(BOUNDS) {
        bucket.0 = bound;
    }
    metric.encode_family(labels)?.encode_histogram::<NoLabelSet>(total.sum(), total.count(), &buckets, None)
}
