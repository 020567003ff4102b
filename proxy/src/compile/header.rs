//! Header additions and removals, as routes, virtual hosts, tables and weighted clusters have them.

use std::fmt::Display;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use sidegate_xds::bounds::may_be_written;
use sidegate_xds::envoy::config::core::v3 as wire;
use sidegate_xds::envoy::config::core::v3::header_value_option::HeaderAppendAction;

use super::problem::{At, Problem, fail};
use super::value;
use crate::authorization::is_protected;
use crate::route::{AddedValue, AppendAction, HeaderAddition, HeaderChanges};
use crate::telemetry::HeaderFormat;

/// Changes of `<side>_to_add` and `<side>_to_remove`; `None` when there are none. `place` is where they stand, for warnings.
pub(crate) fn changes(
    place: impl Display,
    side: &str,
    add: &[wire::HeaderValueOption],
    remove: &[String],
) -> Result<Option<Arc<HeaderChanges>>, Problem> {
    if add.is_empty() && remove.is_empty() {
        return Ok(None);
    }
    let mut changes = HeaderChanges::default();
    for (index, name) in remove.iter().enumerate() {
        let name = self::name(name).at(format_args!("{side}_to_remove[{index}]"))?;
        changes.remove.push(name.as_str().into());
    }
    for (index, option) in add.iter().enumerate() {
        let addition = addition(option).at(format_args!("{side}_to_add[{index}]"))?;
        // Envoy takes such configuration; to refuse the whole table would stop every other route of it.
        if let Some(addition) = &addition
            && is_protected(addition.name.as_str())
        {
            tracing::warn!(
                "{place}: {side}_to_add[{index}]: {} is the codec's to write; it is left out",
                addition.name
            );
            continue;
        }
        changes.add.extend(addition);
    }
    Ok(Some(Arc::new(changes)))
}

fn addition(option: &wire::HeaderValueOption) -> Result<Option<HeaderAddition>, Problem> {
    let Some(header) = &option.header else { return fail("header is required") };
    let name = name(&header.key).at("header.key")?;
    let fixed = |bytes: &[u8]| match HeaderValue::from_bytes(bytes) {
        Ok(value) => Ok(AddedValue::Fixed(value)),
        Err(_) => fail("is not a header value").at("header.value"),
    };
    let value = if header.raw_value.is_empty() {
        let format = HeaderFormat::parse(&header.value, option.keep_empty_value);
        let format = format.map_err(|error| Problem::new(error.to_string())).at("header.value")?;
        match format.literal() {
            Some(text) => fixed(text.as_bytes())?,
            None => AddedValue::Made(Box::new(format)),
        }
    } else {
        fixed(&header.raw_value)?
    };
    if matches!(&value, AddedValue::Fixed(value) if value.is_empty()) && !option.keep_empty_value {
        return Ok(None);
    }
    let action = value::choice(option.append_action).at("append_action")?;
    let action = match (&option.append, action) {
        // The older boolean decides where the newer action says nothing.
        (Some(append), HeaderAppendAction::AppendIfExistsOrAdd) if !append.value => AppendAction::Overwrite,
        (_, HeaderAppendAction::AppendIfExistsOrAdd) => AppendAction::Append,
        (_, HeaderAppendAction::AddIfAbsent) => AppendAction::AddIfAbsent,
        (_, HeaderAppendAction::OverwriteIfExistsOrAdd) => AppendAction::Overwrite,
        (_, HeaderAppendAction::OverwriteIfExists) => AppendAction::OverwriteIfExists,
    };
    Ok(Some(HeaderAddition { name, value, action }))
}

/// `Host` and pseudo-headers are not header fields to change: routes have actions for them (Envoy refuses them too).
pub(crate) fn name(text: &str) -> Result<HeaderName, Problem> {
    if !may_be_written(text) {
        return fail(format!("{text} must not be changed here: use a host or path rewrite"));
    }
    text.parse().map_err(|_| Problem::new(format!("{text:?} is not a header name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(key: &str, value: &str) -> wire::HeaderValueOption {
        let header =
            wire::HeaderValue { key: key.to_owned(), value: value.to_owned(), raw_value: Vec::new() };
        wire::HeaderValueOption { header: Some(header), ..Default::default() }
    }

    #[test]
    fn additions_and_removals() {
        let changes = changes("all", "request_headers", &[option("X-A", "50%%")], &["X-B".to_owned()])
            .unwrap()
            .unwrap();
        assert_eq!(&*changes.remove[0], "x-b");
        assert!(matches!(&changes.add[0].value, AddedValue::Fixed(value) if value == "50%"));
        assert_eq!(changes.add[0].action, AppendAction::Append);
    }

    #[test]
    fn the_older_boolean_and_empty_values() {
        let mut overwrite = option("x-a", "1");
        overwrite.append = Some(sidegate_xds::google::protobuf::BoolValue { value: false });
        let mut kept = option("x-c", "");
        kept.keep_empty_value = true;
        let changes = changes("all", "s", &[overwrite, option("x-b", ""), kept], &[]).unwrap().unwrap();
        assert_eq!(changes.add.len(), 2);
        assert_eq!(changes.add[0].action, AppendAction::Overwrite);
    }

    #[test]
    fn values_may_be_made_for_each_message() {
        let changes =
            changes("all", "s", &[option("x-a", "from %DOWNSTREAM_REMOTE_ADDRESS%")], &[]).unwrap().unwrap();
        assert!(matches!(changes.add[0].value, AddedValue::Made(_)));
    }

    #[test]
    fn what_codecs_write_is_left_out() {
        for name in [
            "Connection",
            "te",
            "transfer-encoding",
            "upgrade",
            "keep-alive",
            "proxy-connection",
            "content-length",
        ] {
            let added = [option(name, "trailers"), option("x-a", "1")];
            let changes = changes("all", "request_headers", &added, &[]).unwrap().unwrap();
            let names: Vec<_> = changes.add.iter().map(|addition| addition.name.as_str()).collect();
            assert_eq!(names, ["x-a"], "{name}");
        }
    }

    #[test]
    fn refusals_say_where() {
        let refused = |option| changes("all", "request_headers", &[option], &[]).unwrap_err().to_string();
        assert_eq!(
            refused(option("x-ip", "%DOWNSTREAM_REMOTE_ADRESS%")),
            "request_headers_to_add[0].header.value: unknown operator %DOWNSTREAM_REMOTE_ADRESS%"
        );
        assert!(refused(option("x", "100%")).contains("header.value"));
        assert!(refused(option("Host", "x")).contains("must not be changed here"));
        assert!(refused(option("a b", "x")).contains("is not a header name"));
        assert!(refused(option("x", "a\nb")).contains("is not a header value"));
    }
}
