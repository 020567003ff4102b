//! What people read of the proxies' certificates.

use std::fmt::Write as _;

use super::title;
use crate::status::{Certificate, Proxy};

/// `18h`, `expired`, `token`; `plaintext` for who has proven nothing.
pub(super) fn cell(proxy: &Proxy) -> String {
    match (&proxy.identity, &proxy.certificate) {
        (None, _) => "plaintext".to_owned(),
        (Some(_), None) => "token".to_owned(),
        (Some(_), Some(certificate)) if certificate.expires_seconds <= 0 => "expired".to_owned(),
        (Some(_), Some(certificate)) => {
            let mark = if certificate.is_neglected() { "!" } else { "" };
            format!("{}{mark}", left(certificate))
        }
    }
}

/// A line for each certificate that nothing has taken the place of in time.
pub(super) fn push(text: &mut String, proxies: &[Proxy]) {
    for proxy in proxies {
        let Some(certificate) = proxy.certificate.as_ref().filter(|certificate| certificate.is_neglected())
        else {
            continue;
        };
        let who = proxy.identity.as_deref().unwrap_or_default();
        let when = match certificate.expires_seconds {
            ..=0 => "has expired".to_owned(),
            _ => format!("expires in {}", left(certificate)),
        };
        let _ = writeln!(
            text,
            "\n{}: its certificate ({who}) {when} and was not renewed: look for certificates in the log of the proxy and at its /certs",
            title(proxy)
        );
    }
}

#[allow(clippy::cast_precision_loss, reason = "a life in seconds has far fewer than 52 bits")]
fn left(certificate: &Certificate) -> String {
    super::age(certificate.expires_seconds as f64)
}
