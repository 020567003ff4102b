//! Changes of headers, in Envoy's form.

use sidegate_xds::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use sidegate_xds::envoy::config::core::v3::{HeaderValue, HeaderValueOption};

use super::normal::HeaderOps;

/// Whether a proxy accepts these changes.
pub(super) fn check(ops: &HeaderOps<'_>) -> Result<(), String> {
    for (name, value) in ops.set.iter().chain(&ops.add) {
        check_changed_name(name)?;
        if value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 0x7f) {
            return Err(format!("the value of header {name} contains control characters"));
        }
    }
    ops.remove.iter().try_for_each(|name| check_changed_name(name))
}

fn check_changed_name(name: &str) -> Result<(), String> {
    check_name(name)?;
    if name.eq_ignore_ascii_case("host") {
        return Err("the Host header is changed by URLRewrite.hostname, not by a header modifier".to_owned());
    }
    Ok(())
}

/// Whether this is a name of a header (RFC 9110, token).
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if (1..=256).contains(&name.len()) && name.bytes().all(is_token) {
        Ok(())
    } else {
        Err(format!("{name:?} is not a name of a header"))
    }
}

/// `set` and `add`, in Envoy's form.
pub(super) fn to_add(ops: &HeaderOps<'_>) -> Vec<HeaderValueOption> {
    let option = |(name, value): &(&str, &str), action: HeaderAppendAction| HeaderValueOption {
        header: Some(HeaderValue {
            key: (*name).to_owned(),
            // Envoy reads values as format strings, in which a percent sign is written twice.
            value: value.replace('%', "%%"),
            ..HeaderValue::default()
        }),
        append_action: action.into(),
        ..HeaderValueOption::default()
    };
    let set = ops.set.iter().map(|header| option(header, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = ops.add.iter().map(|header| option(header, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}

/// `remove`, in Envoy's form.
pub(super) fn to_remove(ops: &HeaderOps<'_>) -> impl Iterator<Item = String> {
    ops.remove.iter().map(|name| name.to_ascii_lowercase())
}
