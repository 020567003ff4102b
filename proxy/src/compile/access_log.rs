//! Access loggers. Those that this proxy does not have are left out, as all telemetry: no request depends on them.

use std::sync::Arc;

use sidegate_xds::envoy::config::accesslog::v3 as wire;
use sidegate_xds::envoy::config::core::v3 as core;
use sidegate_xds::envoy::extensions::access_loggers::file::v3::{FileAccessLog, file_access_log};
use sidegate_xds::envoy::extensions::access_loggers::stream::v3 as stream;
use sidegate_xds::google::protobuf::{Struct, Value, value::Kind};
use sidegate_xds::resource::from_any;

use super::extension;
use super::problem::{At, Problem, fail, unsupported};
use crate::telemetry::{AccessLog, LogFormat};

/// Checks the access logs of a connection manager or TCP proxy.
pub(crate) fn compile(logs: &[wire::AccessLog]) -> Result<Vec<Arc<AccessLog>>, Problem> {
    let mut compiled = Vec::new();
    for (index, log) in logs.iter().enumerate() {
        let log = access_log(log).at(format_args!("access_log[{index}] ({})", log.name))?;
        compiled.extend(log.map(Arc::new));
    }
    Ok(compiled)
}

fn access_log(log: &wire::AccessLog) -> Result<Option<AccessLog>, Problem> {
    let Some(wire::access_log::ConfigType::TypedConfig(any)) = &log.config_type else {
        return fail("typed_config is required");
    };
    let kind = extension::type_name(any);
    let (path, format) = match kind.strip_prefix("envoy.extensions.access_loggers.") {
        Some("file.v3.FileAccessLog") => {
            let file: FileAccessLog = from_any(any).map_err(|error| Problem::new(error.to_string()))?;
            let format = file_format(file.access_log_format)?;
            (file.path, format)
        }
        Some("stream.v3.StdoutAccessLog") => {
            let log: stream::StdoutAccessLog =
                from_any(any).map_err(|error| Problem::new(error.to_string()))?;
            use stream::stdout_access_log::AccessLogFormat::LogFormat as Format;
            ("/dev/stdout".to_owned(), stream_format(log.access_log_format.map(|Format(format)| format))?)
        }
        Some("stream.v3.StderrAccessLog") => {
            let log: stream::StderrAccessLog =
                from_any(any).map_err(|error| Problem::new(error.to_string()))?;
            use stream::stderr_access_log::AccessLogFormat::LogFormat as Format;
            ("/dev/stderr".to_owned(), stream_format(log.access_log_format.map(|Format(format)| format))?)
        }
        _ => {
            tracing::warn!(name = log.name, kind, "this access logger is not supported; it is left out");
            return Ok(None);
        }
    };
    unsupported(&[("filter", log.filter.is_some())])?;
    if path.is_empty() {
        return fail("is required").at("path");
    }
    Ok(Some(AccessLog { path: path.into(), format }))
}

fn file_format(format: Option<file_access_log::AccessLogFormat>) -> Result<LogFormat, Problem> {
    use file_access_log::AccessLogFormat;
    match format {
        None => Ok(LogFormat::default()),
        Some(AccessLogFormat::Format(text)) => text_format(&text),
        Some(AccessLogFormat::JsonFormat(json) | AccessLogFormat::TypedJsonFormat(json)) => {
            json_format(&json)
        }
        Some(AccessLogFormat::LogFormat(format)) => substitution(&format).at("log_format"),
    }
}

fn stream_format(format: Option<core::SubstitutionFormatString>) -> Result<LogFormat, Problem> {
    format.map_or_else(|| Ok(LogFormat::default()), |format| substitution(&format).at("log_format"))
}

fn substitution(format: &core::SubstitutionFormatString) -> Result<LogFormat, Problem> {
    use core::data_source::Specifier;
    use core::substitution_format_string::Format;
    unsupported(&[("formatters", !format.formatters.is_empty())])?;
    let parsed = match &format.format {
        None => LogFormat::default(),
        Some(Format::TextFormat(text)) => text_format(text).at("text_format")?,
        Some(Format::JsonFormat(json)) => json_format(json).at("json_format")?,
        Some(Format::TextFormatSource(source)) => match &source.specifier {
            Some(Specifier::InlineString(text)) => text_format(text).at("text_format_source")?,
            _ => return fail("only inline_string is supported yet").at("text_format_source"),
        },
    };
    Ok(if format.omit_empty_values { parsed.omit_empty_values() } else { parsed })
}

fn text_format(text: &str) -> Result<LogFormat, Problem> {
    LogFormat::parse_text(text).map_err(|error| Problem::new(error.to_string()))
}

fn json_format(format: &Struct) -> Result<LogFormat, Problem> {
    LogFormat::parse_json(&object(format)).map_err(|error| Problem::new(error.to_string()))
}

fn object(fields: &Struct) -> serde_json::Value {
    fields.fields.iter().map(|(name, value)| (name.clone(), json(value))).collect()
}

fn json(value: &Value) -> serde_json::Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::NumberValue(number)) => (*number).into(),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::BoolValue(flag)) => (*flag).into(),
        Some(Kind::StructValue(inner)) => object(inner),
        Some(Kind::ListValue(list)) => list.values.iter().map(json).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::tests::fixture::yaml;

    fn compiled(config: &str) -> Result<Vec<Arc<AccessLog>>, String> {
        let text = format!("{{name: log, typed_config: {config}}}");
        compile(&[yaml(&text)]).map_err(|problem| problem.to_string())
    }

    const FILE: &str = "'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/stdout";

    #[test]
    fn files_with_their_formats() {
        let logs =
            compiled(&format!("{{{FILE}, log_format: {{json_format: {{a: '%PROTOCOL%', b: {{c: 1}}}}}}}}"));
        assert_eq!(&*logs.unwrap()[0].path, "/dev/stdout");
        let stdout =
            "{'@type': type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog}";
        assert_eq!(&*compiled(stdout).unwrap()[0].path, "/dev/stdout");
        let error = compiled(&format!("{{{FILE}, log_format: {{text_format: '%NOPE%'}}}}")).unwrap_err();
        assert_eq!(error, "access_log[0] (log).log_format.text_format: unknown operator %NOPE%");
    }

    #[test]
    fn loggers_of_other_kinds_are_left_out() {
        let grpc =
            "{'@type': type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig}";
        assert!(compiled(grpc).unwrap().is_empty());
    }
}
