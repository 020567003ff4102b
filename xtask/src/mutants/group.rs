//! What is changed, and the tests that must notice.

use clap::ValueEnum;

use super::copy::{Copy, Dependencies, File};

/// Files that are judged together.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Group {
    /// Proxy: the HTTP/1.1 codec, headers, authorities and paths
    Codec,
    /// Proxy: who may do what (RBAC)
    Authz,
    /// Proxy: whose token is believed
    Jwt,
    /// Proxy: whose certificate is believed
    Tls,
    /// Proxy: its own certificate
    Identity,
    /// Both: what is a SPIFFE id
    Spiffe,
    /// Control plane: the certificate authority
    Authority,
    /// Control plane: who calls, and what a caller is given
    Callers,
}

/// How a group is judged.
pub(super) struct Plan {
    /// Where it is built.
    pub(super) copy: &'static Copy,
    /// What is changed, from `src` on.
    pub(super) files: &'static [&'static str],
    /// The tests that are run, by the beginnings of their names; all if there are none.
    pub(super) tests: &'static [&'static str],
}

impl Group {
    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Codec => "codec",
            Self::Authz => "authz",
            Self::Jwt => "jwt",
            Self::Tls => "tls",
            Self::Identity => "identity",
            Self::Spiffe => "spiffe",
            Self::Authority => "authority",
            Self::Callers => "callers",
        }
    }

    /// How it is judged.
    pub(super) fn plan(self) -> Plan {
        let (copy, files, tests): (_, &[_], &[_]) = match self {
            Self::Codec => (
                &CODEC,
                &["http1/*.rs", "message/headers.rs", "message/path.rs", "message/authority.rs"],
                &[],
            ),
            Self::Authz => (&FILTERS, &["filter/authz.rs", "filter/authz/*.rs"], &["filter::authz"]),
            Self::Jwt => (
                &FILTERS,
                &[
                    "filter/jwt.rs",
                    "filter/jwt/judge.rs",
                    "filter/jwt/token.rs",
                    "filter/jwt/keys.rs",
                    "filter/jwt/location.rs",
                    "filter/jwt/forward.rs",
                ],
                &["filter::jwt"],
            ),
            Self::Tls => (
                &PLANE,
                &[
                    "tls/verify.rs",
                    "tls/verifier.rs",
                    "tls/signatures.rs",
                    "tls/bundle.rs",
                    "tls/peer.rs",
                    "tls/certificate.rs",
                    "tls/failure.rs",
                ],
                &["tls::"],
            ),
            Self::Identity => (&PLANE, &["identity.rs", "identity/**/*.rs"], &["identity::"]),
            Self::Spiffe => (&SPIFFE, &["spiffe.rs"], &[]),
            Self::Authority => (&CONTROL, &["ca.rs", "ca/**/*.rs"], &["ca::"]),
            Self::Callers => (
                &CONTROL,
                &[
                    "authn.rs",
                    "authn/**/*.rs",
                    "issue.rs",
                    "issue/*.rs",
                    "secure.rs",
                    "secure/door.rs",
                    "secure/guest.rs",
                ],
                &["authn::", "issue::", "secure::"],
            ),
        };
        Plan { copy, files, tests }
    }
}

/// The codec, what it stands on, and the promises that are replayed over it.
const CODEC: Copy = Copy {
    name: "codec",
    package: "proxy",
    rooms: &["error", "message", "http1", "detect", "proxy_header"],
    test_rooms: &["fuzzing"],
    files: &[],
    // Bodies may name the socket that they come from; that room does IO, and here nothing comes from one.
    beside: "mod io {\n    #[derive(Debug)]\n    pub(crate) struct Io;\n}\n",
    without: &[
        // The guard of HTTP/2 stands above the codec.
        ("fuzzing.rs", "frames"),
        // The WebSocket handshake, and the tests beside the others, would bring a C library along that takes longer to build than all else.
        ("message.rs", "websocket"),
        ("detect/client_hello.rs", "mod tests;"),
        ("detect/client_hello.rs", "#[cfg(test)]"),
    ],
    dependencies: Dependencies::These(
        &["bytes", "http", "memchr", "thiserror", "tokio"],
        &["rand", "proptest"],
    ),
    // The replay of the seeds is most of a run.
    optimised: true,
};

/// Filters, without those that are not judged.
const FILTERS: Copy = Copy {
    name: "filters",
    package: "proxy",
    rooms: &["filter", "message", "error"],
    test_rooms: &[],
    beside: include_str!("stand_in.txt"),
    files: &[
        ("telemetry/filter_event.rs", File::Own),
        ("filter/ext_authz.rs", File::Text(include_str!("stand_in_ext_authz.txt"))),
        ("path_template.rs", File::Of("xds-proto/src/path_template.rs")),
    ],
    without: &[("message.rs", "websocket")],
    dependencies: Dependencies::These(
        &[
            "arc-swap",
            "aws-lc-rs",
            "base64",
            "bytes",
            "futures-util",
            "http",
            "jsonwebtoken",
            "memchr",
            "rand",
            "regex",
            "rustc-hash",
            "serde",
            "serde_json",
            "thiserror",
            "tokio",
            "tracing",
        ],
        &["proptest", "tokio"],
    ),
    optimised: false,
};

/// The rooms of identity, and what they stand on.
const PLANE: Copy = Copy {
    name: "plane",
    package: "proxy",
    rooms: &["identity", "telemetry", "message", "tls", "io", "overload", "drain", "settings", "error"],
    test_rooms: &[],
    files: &[],
    beside: "",
    without: &[],
    dependencies: Dependencies::OfPackage,
    optimised: false,
};

/// Ids alone.
const SPIFFE: Copy = Copy {
    name: "ids",
    package: "xds-proto",
    rooms: &["spiffe"],
    test_rooms: &[],
    files: &[],
    beside: "",
    without: &[],
    dependencies: Dependencies::These(&["thiserror"], &[]),
    optimised: false,
};

/// The control plane's rooms of identity, and what they stand on.
const CONTROL: Copy = Copy {
    name: "control",
    package: "control-plane",
    rooms: &["secure", "xds", "issue", "authn", "ca", "snapshot", "model"],
    test_rooms: &[],
    files: &[],
    beside: "",
    without: &[],
    dependencies: Dependencies::OfPackage,
    optimised: false,
};
