//! What can be told of PEM text without reading the certificates in it. Whether key and certificate belong together is for the proxy
//! to say, which refuses a pair that does not and keeps the one before.

/// Whether there is a certificate here, from its first line to its last.
pub fn has_certificate(bytes: &[u8]) -> bool {
    has_block(bytes, |label| label == "CERTIFICATE")
}

/// Whether there is a private key here, in the clear.
pub fn has_private_key(bytes: &[u8]) -> bool {
    has_block(bytes, |label| matches!(label, "PRIVATE KEY" | "EC PRIVATE KEY" | "RSA PRIVATE KEY"))
}

fn has_block(bytes: &[u8], is_wanted: impl Fn(&str) -> bool) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let mut open: Option<&str> = None;
    for line in text.lines().map(str::trim) {
        if let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
            open = Some(label);
        } else if let Some(label) = line.strip_prefix("-----END ").and_then(|rest| rest.strip_suffix("-----"))
            && open.take() == Some(label)
            && is_wanted(label)
        {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_count() {
        let block = |label: &str| format!("text\n-----BEGIN {label}-----\r\nAAAA\n-----END {label}-----\n");
        assert!(has_certificate(block("CERTIFICATE").as_bytes()));
        assert!(!has_certificate(block("CERTIFICATE REQUEST").as_bytes()));
        assert!(!has_certificate(b"-----BEGIN CERTIFICATE-----\nAAAA\n"));
        assert!(!has_certificate(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END CERTIFICATE-----\n"));
        for label in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
            assert!(has_private_key(block(label).as_bytes()), "{label}");
            assert!(!has_certificate(block(label).as_bytes()), "{label}");
        }
        assert!(!has_private_key(block("ENCRYPTED PRIVATE KEY").as_bytes()));
        assert!(!has_private_key(b"") && !has_private_key(&[0xff, 0xfe]));
    }
}
