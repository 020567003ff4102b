//! The annotations that Sidegate reads on a Pod, for a sidecar without packet redirection.

use std::collections::BTreeSet;

/// `"<app port>:<sidecar port>[,…]"`: what the sidecar answers for.
pub const INBOUND: &str = "sidegate.dev/inbound";

/// `"<port>"`: where the sidecar offers itself as an explicit HTTP proxy.
pub const OUTBOUND_PROXY: &str = "sidegate.dev/outbound-proxy";

/// `"<name>"`, on a Gateway: the service account that its proxies run as; the Gateway's own name when absent.
pub const SERVICE_ACCOUNT: &str = "sidegate.dev/service-account";

/// What the names of all annotations of our own begin with.
pub const PREFIX: &str = "sidegate.dev/";

/// The pairs of an [`INBOUND`] annotation: the application's port, the sidecar's port.
///
/// # Errors
/// A text that says what is wrong with the annotation's.
pub fn inbound(text: &str) -> Result<Vec<(u16, u16)>, String> {
    let mut pairs = Vec::new();
    let (mut of_app, mut of_sidecar) = (BTreeSet::new(), BTreeSet::new());
    for pair in text.split(',').map(str::trim) {
        let (app, sidecar) = pair
            .split_once(':')
            .ok_or_else(|| format!("{} is not <app port>:<sidecar port>, e.g. 8080:15006", shown(pair)))?;
        let (app, sidecar) = (port(app)?, port(sidecar)?);
        if !of_app.insert(app) {
            return Err(format!("the app's port {app} stands here twice"));
        }
        if !of_sidecar.insert(sidecar) {
            return Err(format!("the sidecar's port {sidecar} stands here twice"));
        }
        pairs.push((app, sidecar));
    }
    match of_app.intersection(&of_sidecar).next() {
        Some(shared) => Err(format!("port {shared} cannot be the app's and the sidecar's on one address")),
        None => Ok(pairs),
    }
}

/// The port of an [`OUTBOUND_PROXY`] annotation.
///
/// # Errors
/// A text that says what is wrong with the annotation's.
pub fn outbound_proxy(text: &str) -> Result<u16, String> {
    port(text)
}

fn port(text: &str) -> Result<u16, String> {
    let text = text.trim();
    match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{} is not a port between 1 and 65535, e.g. 15001", shown(text))),
    }
}

/// A text that somebody pasted in the wrong place can be long.
fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(40).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_they_say() {
        assert_eq!(inbound("8080:18080, 9090:19090"), Ok(vec![(8080, 18080), (9090, 19090)]));
        for wrong in
            ["", "8080", "8080:", "8080:0", "8080:65536", "a:b", "1:2,1:3", "1:2,3:2", "1:1", "1:2,2:3"]
        {
            assert!(inbound(wrong).is_err(), "{wrong}");
        }
        assert_eq!(outbound_proxy(" 15001 "), Ok(15001));
        assert!(outbound_proxy("0").is_err() && outbound_proxy("x").is_err());
        assert!(outbound_proxy(&"x".repeat(10_000)).is_err_and(|text| text.len() < 100));
    }
}
