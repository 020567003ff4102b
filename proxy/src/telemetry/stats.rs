//! Envoy's `/stats`: `name: value` lines, sorted.

use super::counter::HistogramTotal;
use super::families::{
    AUTHORIZATION, CLASSES, CLUSTER, CLUSTER_STATE, EXT_AUTHZ, JWT, LISTENER, MANAGER, RATE_LIMIT, Stat,
};
use super::totals::Totals;
use crate::error::Reason;

/// Appends the lines whose name is wanted.
pub(super) fn encode(out: &mut String, wanted: &dyn Fn(&str) -> bool, totals: &Totals) {
    let mut lines = Lines { wanted, lines: Vec::new() };
    clusters(&mut lines, totals);
    managers(&mut lines, totals);
    for (name, blocks) in &totals.listeners {
        for stat in &LISTENER {
            // Envoy's statistics of TLS are in a scope of their own; Prometheus has an underscore there.
            let scoped = stat.name.replacen("ssl_", "ssl.", 1);
            let value = stat.sum(blocks.iter().map(|block| &**block));
            lines.push(&format!("listener.{name}.{scoped}"), value);
        }
    }
    for (scope, blocks) in &totals.authorizations {
        let prefix = scope.stat_prefix();
        for stat in &AUTHORIZATION {
            lines.push(&format!("{prefix}{}", stat.name), stat.sum(blocks.iter().map(|block| &**block)));
        }
    }
    server(&mut lines, totals);
    overload(&mut lines, totals);
    lines.lines.sort_unstable();
    for line in lines.lines {
        out.push_str(&line);
        out.push('\n');
    }
}

struct Lines<'a> {
    wanted: &'a dyn Fn(&str) -> bool,
    lines: Vec<String>,
}

impl Lines<'_> {
    fn push(&mut self, name: &str, value: impl std::fmt::Display) {
        if (self.wanted)(name) {
            self.lines.push(format!("{name}: {value}"));
        }
    }

    fn stat<'a, T: 'a>(
        &mut self,
        room: &str,
        name: &str,
        stat: &Stat<T>,
        blocks: impl Iterator<Item = &'a T>,
    ) {
        self.push(&format!("{room}.{name}.{}", stat.name), stat.sum(blocks));
    }

    fn histogram(&mut self, name: &str, total: &HistogramTotal) {
        let quantile =
            |quantile: f64| total.quantile(quantile).map_or("nan".to_owned(), |value| format!("{value:.2}"));
        let text = [(0.5, "P50"), (0.9, "P90"), (0.95, "P95"), (0.99, "P99"), (0.999, "P99.9")]
            .map(|(share, name)| format!("{name}({})", quantile(share)))
            .join(" ");
        self.push(name, text);
    }
}

fn clusters(lines: &mut Lines<'_>, totals: &Totals) {
    for cluster in &totals.clusters {
        let name = &cluster.name;
        for stat in &CLUSTER {
            lines.stat("cluster", name, stat, cluster.used_blocks());
        }
        for (index, class) in CLASSES.iter().enumerate() {
            let count: u64 = cluster.used_blocks().map(|block| block.classes[index].get()).sum();
            lines.push(&format!("cluster.{name}.upstream_rq_{class}xx"), count);
        }
        for (code, count) in cluster.codes() {
            lines.push(&format!("cluster.{name}.upstream_rq_{code}"), count);
        }
        lines.histogram(&format!("cluster.{name}.upstream_rq_time"), &cluster.time());
    }
    for state in &totals.inputs.clusters {
        for stat in &CLUSTER_STATE {
            lines.stat("cluster", &state.name, stat, std::iter::once(state));
        }
    }
}

fn managers(lines: &mut Lines<'_>, totals: &Totals) {
    for (name, blocks) in &totals.managers {
        for stat in &MANAGER {
            lines.stat("http", name, stat, blocks.iter().map(|block| &**block));
        }
        for stat in &RATE_LIMIT {
            let stat_name = format!("http.{name}.http_local_rate_limit.{}", stat.name);
            lines.push(&stat_name, stat.sum(blocks.iter().map(|block| &**block)));
        }
        for (prefix, stats) in [("jwt_authn", &JWT[..]), ("ext_authz", &EXT_AUTHZ[..])] {
            for stat in stats {
                let stat_name = format!("http.{name}.{prefix}.{}", stat.name);
                lines.push(&stat_name, stat.sum(blocks.iter().map(|block| &**block)));
            }
        }
        let mut time = HistogramTotal::default();
        blocks.iter().for_each(|block| time.add(&block.time));
        lines.histogram(&format!("http.{name}.downstream_rq_time"), &time);
        for (index, class) in CLASSES.iter().enumerate() {
            let count: u64 = blocks.iter().map(|block| block.classes[index].get()).sum();
            lines.push(&format!("http.{name}.downstream_rq_{class}xx"), count);
        }
    }
}

fn overload(lines: &mut Lines<'_>, totals: &Totals) {
    let report = totals.inputs.overload;
    if report.ceiling == 0 {
        return;
    }
    lines.push("overload.envoy.resource_monitors.fixed_heap.pressure", report.percent());
    lines.push("overload.envoy.resource_monitors.fixed_heap.failed_updates", report.failed_samples);
    for (action, active) in &totals.inputs.overload_actions {
        lines.push(&format!("overload.envoy.overload_actions.{action}.active"), u8::from(*active));
    }
    lines.push("sidegate.overload_memory_bytes", report.used);
    lines.push("sidegate.overload_ceiling_bytes", report.ceiling);
}

fn server(lines: &mut Lines<'_>, totals: &Totals) {
    let inputs = &totals.inputs;
    lines.push("server.live", u8::from(inputs.state == 0));
    lines.push("server.state", inputs.state);
    lines.push("server.uptime", totals.uptime());
    lines.push("server.concurrency", inputs.concurrency);
    lines.push("listener_manager.total_listeners_active", inputs.listeners);
    lines.push("cluster_manager.active_clusters", inputs.clusters.len());
    lines.push("control_plane.connected_state", u8::from(totals.config.connected));
    lines.push("sidegate.config_version", totals.config.version);
    lines.push("sidegate.config_updates", totals.config.publications);
    lines.push("sidegate.config_rejected_resources", totals.config.rejections);
    lines.push("sidegate.panics", totals.panics);
    lines.push("sidegate.series_overflow", totals.series_overflow);
    lines.push("sidegate.access_log_lines_written", totals.log.written);
    lines.push("sidegate.access_log_lines_dropped", totals.log.dropped);
    lines.push("sidegate.access_log_lines_failed", totals.log.failed);
    for (reason, count) in Reason::ALL.iter().zip(totals.reasons.0) {
        lines.push(&format!("sidegate.reasons.{}", reason.label()), count);
    }
}
