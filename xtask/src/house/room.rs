//! Who may import whom: rooms of a crate by their order in `lib.rs`, external crates by the rooms that may have them.

use super::Finding;
use super::source::{Source, closing};
use super::token::{Kind, Token, tokens};

/// One crate and the external crates that it keeps in certain rooms.
pub(crate) struct Plan {
    /// Its folder.
    pub(crate) krate: &'static str,
    guards: &'static [Guard],
}

/// Names that only some rooms may use.
struct Guard {
    names: &'static [&'static str],
    rooms: &'static [&'static str],
    why: &'static str,
}

/// The rooms that `lib.rs` declares, in its order.
pub(crate) fn order(lib: &str) -> Vec<String> {
    let tokens = tokens(lib);
    let declared = tokens.windows(3).filter(|window| window[0].is("mod") && window[2].is(";"));
    declared.map(|window| window[1].text.to_owned()).collect()
}

/// Imports of rooms that stand above this file's own.
pub(crate) fn imports(source: &Source<'_>, order: &[String]) -> Vec<Finding> {
    let position = |room: &str| order.iter().position(|name| name == room);
    let own = source.room();
    let Some(here) = position(own) else { return Vec::new() };
    let mut findings: Vec<Finding> = Vec::new();
    for (line, room) in named_rooms(&source.tokens) {
        if position(room).is_some_and(|there| there < here) {
            let what = format!(
                "`{own}` imports `{room}`, which stands above it in lib.rs: move the type down, or hand it a value"
            );
            if !findings.iter().any(|(_, known)| *known == what) {
                findings.push((line, what));
            }
        }
    }
    findings
}

/// `crate::x` and each first name in `crate::{x::…, y}`.
fn named_rooms<'a>(tokens: &[Token<'a>]) -> Vec<(usize, &'a str)> {
    let mut rooms = Vec::new();
    for at in (0..tokens.len()).filter(|at| tokens[*at].is("crate")) {
        if !tokens.get(at + 1).is_some_and(|token| token.is("::")) {
            continue;
        }
        match tokens.get(at + 2) {
            Some(token) if token.kind == Kind::Word => rooms.push((token.line, token.text)),
            Some(token) if token.is("{") => {
                rooms.extend(top_names(&tokens[at + 2..=closing(tokens, at + 2)]));
            }
            _ => {}
        }
    }
    rooms
}

/// The names directly inside the braces that `group` starts with.
fn top_names<'a>(group: &[Token<'a>]) -> Vec<(usize, &'a str)> {
    let mut depth = 0usize;
    let mut names = Vec::new();
    for (index, token) in group.iter().enumerate() {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        let follows = index > 0 && (group[index - 1].is("{") || group[index - 1].is(","));
        if depth == 1 && token.kind == Kind::Word && follows {
            names.push((token.line, token.text));
        }
    }
    names
}

/// External crates in rooms that may not have them.
pub(crate) fn guarded(source: &Source<'_>, plan: &Plan) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let room = source.room();
    for (at, token) in source.tokens.iter().enumerate().filter(|(_, token)| token.kind == Kind::Word) {
        let Some(guard) = plan.guards.iter().find(|guard| guard.names.contains(&token.text)) else {
            continue;
        };
        if guard.rooms.contains(&room) || !is_crate(&source.tokens, at) {
            continue;
        }
        let Guard { rooms, why, .. } = guard;
        let rooms = if rooms.is_empty() {
            "nowhere in this crate".to_owned()
        } else {
            format!("only in {}", rooms.join(", "))
        };
        let what = format!("`{}` may stand {rooms}: {why}", token.text);
        if !findings.iter().any(|(_, known)| *known == what) {
            findings.push((token.line, what));
        }
    }
    findings
}

/// Whether the word at `at` begins a path (`h2::…`, `use h2;`), so that it can only be a crate.
fn is_crate(tokens: &[Token<'_>], at: usize) -> bool {
    let before = at.checked_sub(1).map(|at| &tokens[at]);
    let after = tokens.get(at + 1);
    let continues = before.is_some_and(|token| token.is("::") && !starts_path(tokens, at - 1));
    let imported = before.is_some_and(|token| token.is("use") || token.is("crate"));
    let leads = after.is_some_and(|token| token.is("::"));
    !continues && (leads || imported)
}

/// Whether the `::` at `at` has nothing before it, as in `::h2::…`.
fn starts_path(tokens: &[Token<'_>], at: usize) -> bool {
    at == 0 || tokens[at - 1].kind != Kind::Word && !tokens[at - 1].is(">")
}

/// The crates that the law is about.
pub(crate) const PLANS: &[Plan] = &[
    Plan {
        krate: "proxy",
        guards: &[
            Guard {
                names: &["hyper"],
                rooms: &["admin", "health"],
                why: "the data path has its own codecs (D2)",
            },
            Guard {
                names: &["hyper_util"],
                rooms: &["admin", "health", "identity"],
                why: "it serves admin, and gives gRPC's transport the connections that `identity` has proven",
            },
            Guard {
                names: &["h2"],
                rooms: &["http", "http2", "upstream", "io", "fuzzing"],
                why: "only what drives connections knows the codec",
            },
            Guard {
                names: &["tonic", "tonic_prost"],
                rooms: &["xds", "identity"],
                why: "gRPC ends at the configuration stream and at the certificate authority",
            },
            Guard {
                names: &["sidegate_xds", "prost", "prost_reflect", "envoy_types"],
                rooms: &["app", "admin", "xds", "identity", "compile", "settings", "authorization"],
                why: "wire types die in `compile`; `authorization` is a wire of the data path's own",
            },
            Guard {
                names: &["rustls", "webpki", "x509_parser", "rcgen", "tokio_rustls"],
                rooms: &["identity", "tls", "io"],
                why: "the other rooms see byte streams and identities",
            },
            NO_KUBERNETES,
            ANYHOW,
        ],
    },
    Plan {
        krate: "control-plane",
        guards: &[
            Guard {
                names: &["hyper", "hyper_util"],
                rooms: &["cli", "demo", "status", "authn", "source", "jwks"],
                why: "small HTTP servers and clients beside the work",
            },
            Guard { names: &["h2"], rooms: &[], why: "tonic brings gRPC's transport" },
            Guard {
                names: &["tonic", "tonic_prost"],
                rooms: &["app", "secure", "xds", "issue", "authn"],
                why: "gRPC ends at the configuration stream and at the certificate authority",
            },
            Guard {
                names: &["sidegate_xds", "prost", "prost_reflect", "envoy_types"],
                rooms: &["cli", "check", "translate", "xds", "issue", "authn", "ca", "snapshot", "model"],
                why: "`translate` makes wire types, `snapshot` keeps them, `xds` sends them",
            },
            Guard {
                names: &["rustls", "tokio_rustls", "rcgen", "x509_parser"],
                rooms: &["ca", "authn", "issue", "secure", "jwks"],
                why: "keys, certificates and handshakes stay where identities are made and proven",
            },
            NO_KUBERNETES,
            ANYHOW,
        ],
    },
    Plan {
        krate: "xds-proto",
        guards: &[
            Guard {
                names: &["hyper", "h2", "tonic", "tokio"],
                rooms: &[],
                why: "wire types and their text form need no IO",
            },
            NO_KUBERNETES,
            ANYHOW,
        ],
    },
    Plan { krate: "bench", guards: &[] },
    Plan { krate: "xtask", guards: &[] },
];

const NO_KUBERNETES: Guard = Guard {
    names: &["kube"],
    rooms: &[],
    why: "there is no client yet; it will stand in the control plane's `source`",
};
const ANYHOW: Guard =
    Guard { names: &["anyhow"], rooms: &["main"], why: "errors are typed where they start" };
