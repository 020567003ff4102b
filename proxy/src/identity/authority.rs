//! One call of the certificate authority: proven to it by our certificate or by the token, bounded in time and bytes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::uri::PathAndQuery;
use sidegate_xds::ca;
use sidegate_xds::spiffe::SpiffeId;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::Failure;
use super::connect::{Target, dial};
use super::request::{Leaf, Request};
use super::status::Outcome;
use crate::settings::{self, Identity};
use crate::tls::{Policy, PolicyParts, Roots};

/// Asks once for a certificate: as who we are by the certificate in force; where that is refused with the token beside it, and else by the token.
pub(super) async fn ask(
    settings: Arc<Identity>,
    roots: Roots,
    leaf: Option<Arc<Leaf>>,
    known: Option<SpiffeId>,
) -> Result<Leaf, Failure> {
    let request = Request::new(known.as_ref())?;
    let chain = match &leaf {
        None => call(&settings, &roots, Proof::Token(token(&settings)?), &request.csr).await,
        Some(leaf) => {
            let first = call(&settings, &roots, Proof::Leaf(leaf), &request.csr).await;
            match first {
                // Some authorities believe tokens only, and one that has lost its roots does not know our certificate.
                Err(failure) if matches!(failure.outcome, Outcome::Refused | Outcome::Unreachable) => {
                    match token(&settings) {
                        Ok(token) => with_token(&settings, &roots, leaf, token, &request.csr, &failure).await,
                        Err(_) => Err(failure),
                    }
                }
                other => other,
            }
        }
    };
    request.accept(&chain?, &roots, known.as_ref(), SystemTime::now())
}

/// Again, with the token. What refused us listened to our certificate, and wants a token beside it: so it learns which certificate is
/// replaced, and need not wait for its end before a root is retired. If it does not, the token alone.
async fn with_token(
    settings: &Identity,
    roots: &Roots,
    leaf: &Leaf,
    token: MetadataValue<Ascii>,
    csr: &str,
    first: &Failure,
) -> Result<Vec<String>, Failure> {
    if matches!(first.outcome, Outcome::Refused)
        && let Ok(chain) = call(settings, roots, Proof::Both(leaf, token.clone()), csr).await
    {
        return Ok(chain);
    }
    call(settings, roots, Proof::Token(token), csr).await
}

enum Proof<'a> {
    Leaf(&'a Leaf),
    Both(&'a Leaf, MetadataValue<Ascii>),
    Token(MetadataValue<Ascii>),
}

async fn call(
    settings: &Identity,
    roots: &Roots,
    proof: Proof<'_>,
    csr: &str,
) -> Result<Vec<String>, Failure> {
    match tokio::time::timeout(DEADLINE, Box::pin(exchange(settings, roots, proof, csr))).await {
        Ok(outcome) => outcome,
        Err(_) => {
            let text = format!("{}: no answer within {DEADLINE:?}", settings.ca_address());
            Err(Failure::new(Outcome::Timeout, text))
        }
    }
}

async fn exchange(
    settings: &Identity,
    roots: &Roots,
    proof: Proof<'_>,
    csr: &str,
) -> Result<Vec<String>, Failure> {
    let address = settings.ca_address();
    let parts = PolicyParts { roots: Some(roots.clone()), requested_name: true, ..PolicyParts::default() };
    let identity = match &proof {
        Proof::Leaf(leaf) | Proof::Both(leaf, _) => Some(&*leaf.identity),
        Proof::Token(_) => None,
    };
    let connection = dial(Target {
        host: &settings.ca_host,
        port: settings.ca_port,
        server_name: Some(&settings.ca_server_name),
        policy: Arc::new(Policy::new(parts)),
        identity,
        time_limit: CONNECT,
        roots: "root_file",
    })
    .await
    .map_err(|error| Failure::new(error.outcome, error.to_string()))?;
    let unreachable = |text: String| Failure::new(Outcome::Unreachable, format!("{address}: {text}"));
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .map_err(|error| unreachable(error.to_string()))?;
    let channel = endpoint.connect_with_connector(connection).await;
    let channel = channel.map_err(|error| unreachable(super::in_one_line(&error)))?;
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(LARGEST_ANSWER);
    client.ready().await.map_err(|error| unreachable(super::in_one_line(&error)))?;
    let message = ca::CertificateRequest {
        csr: csr.to_owned(),
        validity_duration: i64::try_from(settings.ttl.as_secs()).unwrap_or(i64::MAX),
        metadata: None,
    };
    let mut request = tonic::Request::new(message);
    request.set_timeout(DEADLINE);
    if let Proof::Token(token) | Proof::Both(_, token) = proof {
        request.metadata_mut().insert("authorization", token);
    }
    let codec: ProstCodec<ca::CertificateRequest, ca::CertificateResponse> = ProstCodec::default();
    let path = PathAndQuery::from_static(ca::CREATE_CERTIFICATE);
    match client.unary(request, path, codec).await {
        Ok(response) => Ok(response.into_inner().cert_chain),
        Err(status) => Err(refusal(&address, &status)),
    }
}

fn refusal(address: &str, status: &Status) -> Failure {
    let outcome = match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal => Outcome::Unreachable,
        Code::DeadlineExceeded => Outcome::Timeout,
        Code::OutOfRange | Code::DataLoss => Outcome::Answer,
        _ => Outcome::Refused,
    };
    let advice = match status.code() {
        Code::Unauthenticated => "; look at token_file: is it fresh, and for the authority's audience?",
        Code::Unimplemented => "; is ca_address the address of a certificate authority?",
        _ => "",
    };
    // What a stranger says is told, but not at any length.
    let mut text = super::describe(status);
    if let Some((end, _)) = text.char_indices().nth(LONGEST_TEXT) {
        text.truncate(end);
    }
    Failure::new(outcome, format!("{address}: {}{advice}", text.escape_debug()))
}

/// The token as it is now, as a header.
pub(super) fn token(settings: &Identity) -> Result<MetadataValue<Ascii>, Failure> {
    let failed = |text: String| Failure::new(Outcome::Token, format!("token_file: {text}"));
    let name = settings.token_file.display();
    let bytes = settings::read_bounded(&settings.token_file).map_err(failed)?;
    let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
    let allowed = |byte: u8| byte.is_ascii_graphic();
    if text.is_empty() || text.len() > LONGEST_TOKEN || !text.bytes().all(allowed) {
        return Err(failed(format!("{name} has no token in it")));
    }
    let mut value: MetadataValue<Ascii> =
        format!("Bearer {text}").parse().map_err(|_| failed(format!("{name} has no token in it")))?;
    value.set_sensitive(true);
    Ok(value)
}

/// For connection and handshake, each.
const CONNECT: Duration = Duration::from_secs(5);

/// For a whole call.
const DEADLINE: Duration = Duration::from_secs(10);

/// A chain of a dozen large certificates is a tenth of it.
const LARGEST_ANSWER: usize = 256 << 10;

const LONGEST_TOKEN: usize = 16 << 10;

const LONGEST_TEXT: usize = 300;

#[cfg(test)]
mod tests;
