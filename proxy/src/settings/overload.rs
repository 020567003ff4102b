//! What is done when memory gets scarce, and from when on: our defaults, or the bootstrap's `overload_manager`.

use prost::Message;
use sidegate_xds::envoy::config::bootstrap::v3::Bootstrap;
use sidegate_xds::envoy::config::overload::v3 as wire;
use sidegate_xds::envoy::extensions::resource_monitors::cgroup_memory::v3::CgroupMemoryConfig;
use sidegate_xds::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use sidegate_xds::envoy::extensions::resource_monitors::fixed_heap::v3::FixedHeapConfig;
use sidegate_xds::json::Problem;

use super::bootstrap::problem;
use super::memory::{self, Account, Ceiling, Wish};

/// The bounds of the whole process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overload {
    /// The bound on memory, if there is one, and what happens near it.
    pub memory: Option<MemoryBound>,
    /// Connections from clients that may be open, if that is configured.
    pub connections: Option<usize>,
}

/// A ceiling, and the shares of it at which something is done.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryBound {
    /// The ceiling.
    pub ceiling: Ceiling,
    /// From which share on.
    pub thresholds: Thresholds,
}

/// Shares of the ceiling, 0 to 1; `None`: never.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Thresholds {
    /// Idle connections and spare buffers are given up, and free memory is given back to the system.
    pub shrink: Option<f64>,
    /// HTTP/1.1 connections end with their response.
    pub disable_keep_alive: Option<f64>,
    /// New requests are answered by 503.
    pub stop_requests: Option<f64>,
    /// New connections are reset.
    pub stop_connections: Option<f64>,
}

impl Thresholds {
    const DEFAULT: Self = Self {
        shrink: Some(SOFT),
        disable_keep_alive: Some(SOFT),
        stop_requests: Some(HARD),
        stop_connections: Some(HARD),
    };
}

/// Reads the flag and the bootstrap's `overload_manager`. The flag replaces the manager's ceiling, not its actions.
pub(super) fn read(bootstrap: &Bootstrap, wish: Option<Wish>, problems: &mut Vec<Problem>) -> Overload {
    let Some(manager) = &bootstrap.overload_manager else {
        return Overload { memory: default_bound(wish), connections: None };
    };
    let mut overload = Overload::default();
    let mut ceiling = None;
    let mut monitor = None;
    for (index, wanted) in manager.resource_monitors.iter().enumerate() {
        match read_monitor(wanted) {
            Ok(Monitor::Connections(most)) => overload.connections = Some(most),
            Ok(Monitor::Memory(found)) if monitor.is_none() => {
                (ceiling, monitor) = (found, Some(wanted.name.as_str()));
            }
            Ok(Monitor::Memory(_)) => {
                let path = format!("overload_manager.resource_monitors[{index}]");
                problems.push(problem(path, "one monitor of memory is enough"));
            }
            Err(text) => {
                let path = format!("overload_manager.resource_monitors[{index}].{text}");
                problems.push(split(&path));
            }
        }
    }
    let mut thresholds = Thresholds::default();
    for (index, action) in manager.actions.iter().enumerate() {
        if let Err(text) = read_action(action, monitor, &mut thresholds) {
            problems.push(split(&format!("overload_manager.actions[{index}].{text}")));
        }
    }
    for (field, set) in [
        ("loadshed_points", !manager.loadshed_points.is_empty()),
        ("buffer_factory_config", manager.buffer_factory_config.is_some()),
    ] {
        if set {
            problems.push(problem(format!("overload_manager.{field}"), UNSUPPORTED));
        }
    }
    overload.memory = match monitor {
        // A manager that says nothing of memory does not ask for being killed.
        None => default_bound(wish),
        Some(_) => {
            let ceiling = if wish.is_some() { memory::ceiling(wish) } else { ceiling };
            ceiling.map(|ceiling| MemoryBound { ceiling, thresholds })
        }
    };
    overload
}

fn default_bound(wish: Option<Wish>) -> Option<MemoryBound> {
    let bound = |ceiling| MemoryBound { ceiling, thresholds: Thresholds::DEFAULT };
    memory::ceiling(wish).map(bound)
}

enum Monitor {
    /// A limit that is not there bounds nothing.
    Memory(Option<Ceiling>),
    Connections(usize),
}

/// What is watched; else a field and what is wrong with it.
fn read_monitor(monitor: &wire::ResourceMonitor) -> Result<Monitor, String> {
    let Some(wire::resource_monitor::ConfigType::TypedConfig(any)) = &monitor.config_type else {
        return Err("typed_config: is missing".to_owned());
    };
    let invalid = |error| format!("typed_config: {error}");
    match any.type_url.rsplit('.').next().unwrap_or_default() {
        "FixedHeapConfig" => {
            let config = FixedHeapConfig::decode(any.value.as_slice()).map_err(invalid)?;
            if config.max_heap_size_bytes_runtime.is_some() {
                return Err(format!("typed_config.max_heap_size_bytes_runtime: {UNSUPPORTED}"));
            }
            if config.max_heap_size_bytes == 0 {
                return Err("typed_config.max_heap_size_bytes: must be greater than 0".to_owned());
            }
            let bytes = config.max_heap_size_bytes;
            Ok(Monitor::Memory(Some(Ceiling { bytes, account: Account::Process })))
        }
        "CgroupMemoryConfig" => {
            let config = CgroupMemoryConfig::decode(any.value.as_slice()).map_err(invalid)?;
            let mut ceiling = memory::ceiling(None);
            if let Some(ceiling) = &mut ceiling
                && config.max_memory_bytes > 0
            {
                ceiling.bytes = ceiling.bytes.min(config.max_memory_bytes);
            }
            Ok(Monitor::Memory(ceiling))
        }
        "DownstreamConnectionsConfig" => {
            let config = DownstreamConnectionsConfig::decode(any.value.as_slice()).map_err(invalid)?;
            let most =
                usize::try_from(config.max_active_downstream_connections).ok().filter(|most| *most > 0);
            let text = "typed_config.max_active_downstream_connections: must be greater than 0";
            most.map(Monitor::Connections).ok_or_else(|| text.to_owned())
        }
        _ => Err(format!("name: {:?} {UNSUPPORTED}", monitor.name)),
    }
}

fn read_action(
    action: &wire::OverloadAction,
    monitor: Option<&str>,
    thresholds: &mut Thresholds,
) -> Result<(), String> {
    let threshold = match action.name.as_str() {
        "envoy.overload_actions.shrink_heap" => &mut thresholds.shrink,
        "envoy.overload_actions.disable_http_keepalive" => &mut thresholds.disable_keep_alive,
        "envoy.overload_actions.stop_accepting_requests" => &mut thresholds.stop_requests,
        "envoy.overload_actions.stop_accepting_connections"
        | "envoy.overload_actions.reject_incoming_connections" => &mut thresholds.stop_connections,
        name => return Err(format!("name: {name:?} {UNSUPPORTED}")),
    };
    if action.typed_config.is_some() {
        return Err(format!("typed_config: {UNSUPPORTED}"));
    }
    let [trigger] = action.triggers.as_slice() else {
        return Err("triggers: exactly one is understood".to_owned());
    };
    if Some(trigger.name.as_str()) != monitor {
        return Err(format!("triggers[0].name: no monitor of memory is called {:?}", trigger.name));
    }
    match trigger.trigger_oneof {
        Some(wire::trigger::TriggerOneof::Threshold(at)) if (0.0..=1.0).contains(&at.value) => {
            *threshold = Some(at.value);
            Ok(())
        }
        Some(wire::trigger::TriggerOneof::Threshold(_)) => {
            Err("triggers[0].threshold.value: must be from 0 to 1".to_owned())
        }
        Some(wire::trigger::TriggerOneof::Scaled(_)) => Err(format!("triggers[0].scaled: {UNSUPPORTED}")),
        None => Err("triggers[0]: a threshold is missing".to_owned()),
    }
}

/// `path: text` as a problem.
fn split(line: &str) -> Problem {
    let (path, text) = line.split_once(": ").unwrap_or((line, ""));
    problem(path, text)
}

const UNSUPPORTED: &str = "is not supported yet";
/// Nothing is refused from here on, but what is not needed is given up.
const SOFT: f64 = 0.85;
/// Work is refused from here on: what is under way needs the rest.
const HARD: f64 = 0.92;

#[cfg(test)]
mod tests {
    use super::super::child;
    use super::*;
    use sidegate_xds::json::Format;

    fn overload(yaml: &str) -> Result<Overload, Vec<String>> {
        let bytes = child::decode_bootstrap(yaml, Format::Yaml).unwrap();
        let bootstrap = Bootstrap::decode(bytes.as_slice()).unwrap();
        let mut problems = Vec::new();
        let overload = read(&bootstrap, None, &mut problems);
        if problems.is_empty() {
            return Ok(overload);
        }
        Err(problems.iter().map(|problem| format!("{}: {}", problem.path, problem.message)).collect())
    }

    const HEAP: &str = "
overload_manager:
  refresh_interval: 0.25s
  resource_monitors:
  - name: envoy.resource_monitors.fixed_heap
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
      max_heap_size_bytes: 134217728
  actions:
  - name: envoy.overload_actions.shrink_heap
    triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.9}}]
  - name: envoy.overload_actions.stop_accepting_requests
    triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.95}}]
";

    #[test]
    fn envoys_overload_manager_is_read() {
        let expected = MemoryBound {
            ceiling: Ceiling { bytes: 128 << 20, account: Account::Process },
            thresholds: Thresholds { shrink: Some(0.9), stop_requests: Some(0.95), ..Thresholds::default() },
        };
        assert_eq!(overload(HEAP).unwrap(), Overload { memory: Some(expected), connections: None });
    }

    #[test]
    fn a_bound_on_connections_is_read() {
        let yaml = "
overload_manager:
  resource_monitors:
  - name: envoy.resource_monitors.global_downstream_max_connections
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
      max_active_downstream_connections: 1000
";
        let expected = Overload { memory: default_bound(None), connections: Some(1000) };
        assert_eq!(overload(yaml).unwrap(), expected);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let cases = [
            (
                HEAP.replace("shrink_heap", "reset_high_memory_stream"),
                "overload_manager.actions[0].name: \"envoy.overload_actions.reset_high_memory_stream\" is not supported yet",
            ),
            (
                HEAP.replace(
                    "threshold: {value: 0.95}",
                    "scaled: {scaling_threshold: 0.9, saturation_threshold: 0.95}",
                ),
                "overload_manager.actions[1].triggers[0].scaled: is not supported yet",
            ),
            (
                HEAP.replace("max_heap_size_bytes: 134217728", "max_heap_size_bytes: 0"),
                "overload_manager.resource_monitors[0].typed_config.max_heap_size_bytes: must be greater than 0",
            ),
            (
                HEAP.replace("value: 0.9}", "value: 90}"),
                "overload_manager.actions[0].triggers[0].threshold.value: must be from 0 to 1",
            ),
            (
                HEAP.replace(
                    "triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.9}}]",
                    "triggers: [{name: cpu, threshold: {value: 0.9}}]",
                ),
                "overload_manager.actions[0].triggers[0].name: no monitor of memory is called \"cpu\"",
            ),
        ];
        for (yaml, expected) in cases {
            let found = overload(&yaml).unwrap_err();
            assert!(found.iter().any(|line| line == expected), "{expected}\n{found:?}");
        }
    }
}
