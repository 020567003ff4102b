//! What the control plane's refusals say of our certificate.

use tonic::{Code, Status};

/// Whether a call failed because of the certificate that we showed.
pub(super) fn is_of_certificate(failure: &Status) -> bool {
    // HTTP/2 keeps nothing but the words of what TLS said.
    let words = super::describe(failure);
    let alert =
        words.split_once(ALERT).is_some_and(|(_, which)| ALERTS.iter().any(|alert| which.starts_with(alert)));
    failure.code() == Code::Unauthenticated || alert
}

const ALERT: &str = "received fatal alert: ";
const ALERTS: [&str; 4] = ["CertificateRevoked", "UnknownCA", "BadCertificate", "CertificateUnknown"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_taken_no_more_is_told_from_other_failures() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::UnknownCA);
        let with = |words: String| Status::unknown(words);
        assert!(is_of_certificate(&with(format!("transport error: {alert}"))), "{alert}");
        assert!(is_of_certificate(&Status::unauthenticated("revoked")));
        let other = rustls::Error::AlertReceived(rustls::AlertDescription::HandshakeFailure);
        for failure in [
            with(other.to_string()),
            Status::permission_denied("denied"),
            Status::unavailable("CertificateRevoked"),
        ] {
            assert!(!is_of_certificate(&failure), "{failure}");
        }
    }
}
