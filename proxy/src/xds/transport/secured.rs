//! TLS under the stream: who the control plane must be, and what proves us to it. Both are looked at anew for each connection.

use std::sync::Arc;
use std::time::Duration;

use super::Token;
use crate::identity::{self, Dialled, Handle, Material, Target};
use crate::settings::{AdsCertificate, AdsEndpoint, AdsName, AdsTls};
use crate::tls::{Identity, NameKind, NameMatch, Policy, PolicyParts, Roots};

/// A proven connection; and the token to send where no certificate proves us.
pub(super) async fn dial(
    tls: &AdsTls,
    endpoint: &AdsEndpoint,
    time_limit: Duration,
    identity: Option<&Handle>,
) -> Result<(Dialled, Option<Token>), String> {
    let material = identity.map(Handle::material).unwrap_or_default();
    let policy = Arc::new(policy(tls, &material)?);
    let shown: Option<Arc<Identity>> = match &tls.certificate {
        AdsCertificate::Own => material.leaf.as_ref().map(|leaf| leaf.identity.clone()),
        AdsCertificate::Given { chain, key } => {
            let pair = Identity::from_pem(&chain.read()?, &key.read()?);
            Some(Arc::new(pair.map_err(|error| error.to_string())?))
        }
    };
    let token = match (identity, &shown) {
        // Its certificate is over: what it was got with proves the proxy too.
        (Some(identity), None) => Some(identity.token().map_err(|failure| failure.to_string())?),
        _ => None,
    };
    let connection = identity::dial(Target {
        host: &endpoint.host,
        port: endpoint.port,
        server_name: tls.server_name.as_deref(),
        policy,
        identity: shown.as_deref(),
        time_limit,
        roots: "the cluster's trusted_ca",
    })
    .await
    .map_err(|error| error.to_string())?;
    Ok((connection, token))
}

/// The bootstrap's roots, and those that have been distributed since.
fn policy(tls: &AdsTls, material: &Material) -> Result<Policy, String> {
    let given = tls.roots.read();
    let text = match (given, &material.roots) {
        (Ok(given), Some(roots)) => [&*given, b"\n", roots.as_bytes()].concat(),
        (Ok(given), None) => given.to_vec(),
        // A file that is being written, or gone: those that came since are as good.
        (Err(_), Some(roots)) => roots.as_bytes().to_vec(),
        (Err(error), None) => return Err(format!("trusted_ca: {error}")),
    };
    let roots = Roots::from_pem(&text, false).map_err(|error| error.to_string())?;
    let names: Vec<_> = tls.names.iter().map(name).collect();
    Ok(Policy::new(PolicyParts {
        roots: Some(roots),
        requested_name: names.is_empty(),
        names,
        ..PolicyParts::default()
    }))
}

fn name(name: &AdsName) -> NameMatch {
    let (kind, what, text) = match name {
        AdsName::Dns(text) => (NameKind::Dns, "DNS", text),
        AdsName::Uri(text) => (NameKind::Uri, "URI", text),
    };
    let wanted = text.clone();
    NameMatch {
        kind,
        text: format!("{what} {text}").into(),
        exact: Some(text.as_str().into()),
        matches: Box::new(move |name| name == wanted),
    }
}
