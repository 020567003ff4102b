//! Who may call whom: AuthorizationPolicy and JWTPolicy, group `sidegate.dev/v1alpha1`. Their semantics are those that users
//! know from Istio's AuthorizationPolicy and RequestAuthentication; attachment is the Gateway API's (`targetRefs`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::policy::TargetRef;

mod attribute;
pub mod external;

pub use attribute::Attribute;
/// What a proxy takes at most, and how it reads templates: by these an object is judged before it is sent.
pub use sidegate_xds::{bounds, path_template::PathTemplate};

/// The namespace whose policies without a target hold for the whole mesh.
pub const ROOT_NAMESPACE: &str = "sidegate-system";

/// `"true"`: the policy is evaluated, counted and logged, and enforced for nothing.
pub const DRY_RUN: &str = "sidegate.dev/dry-run";

/// Claims that are lists, written with spaces between (RFC 8693 §4.2): policies ask for one element.
pub const LISTS: [&str; 2] = ["scope", "permission"];

/// Allows, denies or audits requests and connections where they arrive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicy {
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// What is allowed or denied.
    pub spec: AuthorizationSpec,
}

impl AuthorizationPolicy {
    /// Whether it asks where the client is, as proxies in front report it.
    pub fn asks_for_clients(&self) -> bool {
        let by_source = |from: &From| {
            !from.source.remote_ip_blocks.is_empty() || !from.source.not_remote_ip_blocks.is_empty()
        };
        let by_condition =
            |condition: &Condition| Attribute::parse(&condition.key) == Ok(Attribute::RemoteIp);
        self.spec
            .rules
            .iter()
            .any(|rule| rule.from.iter().any(by_source) || rule.when.iter().any(by_condition))
    }
}

/// The body of an [`AuthorizationPolicy`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationSpec {
    /// Service or Gateway; without targets and selector, the namespace (or the mesh, from [`ROOT_NAMESPACE`]).
    #[serde(default)]
    pub target_refs: Vec<TargetRef>,
    /// Pods by label, instead of targets.
    #[serde(default)]
    pub selector: Option<Selector>,
    /// What a match means; `ALLOW` when absent.
    #[serde(default)]
    pub action: Action,
    /// One of them must match. None: an `ALLOW` policy allows nothing, a `DENY` policy denies nothing.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

/// Pods by label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// All of them.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// What a match means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    /// Where some policy allows, what none of them allows is denied.
    #[default]
    Allow,
    /// Denied, whatever else allows it.
    Deny,
    /// Logged and counted; nothing else.
    Audit,
}

/// A rule: of each part that is there, one must match (of `when`, all).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Who calls.
    #[serde(default)]
    pub from: Vec<From>,
    /// What is asked for.
    #[serde(default)]
    pub to: Vec<To>,
    /// Further conditions.
    #[serde(default)]
    pub when: Vec<Condition>,
}

/// One `from`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct From {
    /// All fields that are there must match.
    pub source: Source,
}

/// Who calls. Values match exactly, by prefix (`abc*`), by suffix (`*abc`), or when there is anything (`*`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "each not-form is the contrary of the field of the same name")]
pub struct Source {
    /// SPIFFE ids of peers, with or without `spiffe://`.
    pub principals: Vec<String>,
    pub not_principals: Vec<String>,
    /// `<issuer>/<subject>` of a valid token.
    pub request_principals: Vec<String>,
    pub not_request_principals: Vec<String>,
    /// Namespaces of peers, in the mesh's own trust domain.
    pub namespaces: Vec<String>,
    pub not_namespaces: Vec<String>,
    /// `<namespace>/<service account>`, or a service account of the policy's own namespace.
    pub service_accounts: Vec<String>,
    pub not_service_accounts: Vec<String>,
    /// Addresses or CIDR blocks of the connection's other end.
    pub ip_blocks: Vec<String>,
    pub not_ip_blocks: Vec<String>,
    /// Addresses or CIDR blocks of the client, as trusted proxies report it.
    pub remote_ip_blocks: Vec<String>,
    pub not_remote_ip_blocks: Vec<String>,
}

/// One `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct To {
    /// All fields that are there must match.
    pub operation: Operation,
}

/// What is asked for. Values match as in [`Source`]; paths may also be templates (`/a/{*}/b`, `/a/{**}`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "each not-form is the contrary of the field of the same name")]
pub struct Operation {
    /// Hosts, with or without a port, in any case.
    pub hosts: Vec<String>,
    pub not_hosts: Vec<String>,
    /// Ports of the workload or the Gateway.
    pub ports: Vec<String>,
    pub not_ports: Vec<String>,
    /// Methods; for gRPC always `POST`.
    pub methods: Vec<String>,
    pub not_methods: Vec<String>,
    /// Canonical paths, without query.
    pub paths: Vec<String>,
    pub not_paths: Vec<String>,
}

/// One condition: the attribute has one of the values, and none of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which attribute: `request.headers[x-token]`, `source.namespace`, `request.auth.claims[groups]`, `connection.sni`, …
    pub key: String,
    /// One of these.
    #[serde(default)]
    pub values: Vec<String>,
    /// None of these.
    #[serde(default)]
    pub not_values: Vec<String>,
}

/// Which tokens are believed, where they arrive. A request without a token passes unless one is required here, or by an
/// [`AuthorizationPolicy`] with `requestPrincipals`; one with an invalid token does not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtPolicy {
    /// Standard object metadata.
    pub metadata: ObjectMeta,
    /// The tokens.
    pub spec: JwtSpec,
}

/// The body of a [`JwtPolicy`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtSpec {
    /// As in [`AuthorizationSpec`].
    #[serde(default)]
    pub target_refs: Vec<TargetRef>,
    /// As in [`AuthorizationSpec`].
    #[serde(default)]
    pub selector: Option<Selector>,
    /// Issuers; at least one.
    pub jwt_rules: Vec<JwtRule>,
    /// Whether a request without a token is refused.
    #[serde(default)]
    pub required: bool,
}

/// One issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtRule {
    /// The `iss` claim.
    pub issuer: String,
    /// One of them must be in `aud`; anything when empty.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// Where the keys are fetched: https, by the control plane.
    #[serde(default)]
    pub jwks_uri: Option<String>,
    /// The keys themselves.
    #[serde(default)]
    pub jwks: Option<String>,
    /// Headers that the token is in; without any of the three, `Authorization: Bearer` and the parameter `access_token`.
    #[serde(default)]
    pub from_headers: Vec<TokenHeader>,
    /// Query parameters that the token is in.
    #[serde(default)]
    pub from_params: Vec<String>,
    /// Cookies that the token is in.
    #[serde(default)]
    pub from_cookies: Vec<String>,
    /// A header that tells the workload the claims, in base64.
    #[serde(default)]
    pub output_payload_to_header: Option<String>,
    /// Single claims as headers.
    #[serde(default)]
    pub output_claim_to_headers: Vec<ClaimHeader>,
    /// Whether the workload sees the token itself.
    #[serde(default)]
    pub forward_original_token: bool,
}

/// A header that a token is in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenHeader {
    /// The header's name.
    pub name: String,
    /// What stands before the token.
    #[serde(default)]
    pub prefix: String,
}

/// A claim as a header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimHeader {
    /// The header's name.
    pub header: String,
    /// The claim; `a.b` for one inside of another.
    pub claim: String,
}

/// A template of a path as it is sent: Envoy writes `*` and `**` for what manifests write as `{*}` and `{**}`.
pub fn sent_template(path: &str) -> String {
    path.replace("{**}", "**").replace("{*}", "*")
}

/// Reads a JSON Web Key Set as a proxy will: a member that stands there twice, or too much of it, would refuse the whole listener.
///
/// # Errors
/// Says what is wrong with it.
pub fn key_set(text: &str) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Document {
        keys: Vec<serde_json::Value>,
    }
    if text.len() > bounds::LONGEST_JWKS {
        return Err(format!("has more than {} bytes", bounds::LONGEST_JWKS));
    }
    let document: Document = serde_json::from_str(text)
        .map_err(|error| format!("is no JSON Web Key Set, {{\"keys\": […]}}: {error}"))?;
    match document.keys.len() {
        0 => Err("has no key in it".to_owned()),
        1..=bounds::MOST_KEYS => Ok(()),
        _ => Err(format!("has more than {} keys", bounds::MOST_KEYS)),
    }
}
