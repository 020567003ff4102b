//! Rules: `Permission` and `Principal` are one kind of tree here.

use super::address::Range;
use super::facts::Facts;
use super::field::FieldRule;
use super::path::PathTest;
use super::text::Text;
use super::truth::Truth;
use super::value::AttributeRule;

/// What must hold.
#[derive(Debug)]
pub(crate) enum Rule {
    /// `any`.
    Always,
    /// `and_rules`, `and_ids`.
    All(Box<[Rule]>),
    /// `or_rules`, `or_ids`.
    Any(Box<[Rule]>),
    /// `not_rule`, `not_id`.
    Not(Box<Rule>),
    /// `header`.
    Field(Box<FieldRule>),
    /// `url_path`, `uri_template`.
    Path(Box<PathTest>),
    /// `metadata`, `sourced_metadata`.
    Attribute(Box<AttributeRule>),
    /// `destination_ip`.
    Destination(Range),
    /// `destination_port`, `destination_port_range`: from the first to below the second.
    Ports(i32, i32),
    /// `requested_server_name`.
    ServerName(Box<Text>),
    /// `authenticated`.
    Peer(Option<Box<Text>>),
    /// `mtls_authenticated` with a URI.
    PeerUri(Box<Text>),
    /// `mtls_authenticated` with a mail address.
    PeerEmail(Box<Text>),
    /// `source_ip`.
    Source(Range),
    /// `direct_remote_ip`.
    Direct(Range),
    /// `remote_ip`.
    Client(Range),
}

impl Rule {
    /// Whether it holds. The depth of rules is bounded when they are compiled.
    pub(crate) fn judge(&self, facts: &Facts<'_>) -> Truth {
        match self {
            Self::Always => Truth::Yes,
            Self::All(rules) => Truth::all(rules.iter().map(|rule| rule.judge(facts))),
            Self::Any(rules) => Truth::any(rules.iter().map(|rule| rule.judge(facts))),
            Self::Not(rule) => rule.judge(facts).not(),
            Self::Field(rule) => rule.judge(facts),
            Self::Path(test) => facts.judge_path(test),
            Self::Attribute(rule) => rule.judge(facts.attributes),
            Self::Destination(range) => Truth::of(range.contains(facts.destination.ip())),
            Self::Ports(from, to) => Truth::of((*from..*to).contains(&i32::from(facts.destination.port()))),
            Self::ServerName(test) => facts.judge_server_name(test),
            Self::Peer(None) => Truth::of(facts.peer.is_some()),
            Self::Peer(Some(test)) => facts.peer.map_or(Truth::No, |peer| peer.is(test)),
            Self::PeerUri(test) => facts.peer.map_or(Truth::No, |peer| peer.has_uri(test)),
            Self::PeerEmail(test) => facts.peer.map_or(Truth::No, |peer| peer.has_email(test)),
            Self::Source(range) => Truth::of(range.contains(facts.source)),
            Self::Direct(range) => Truth::of(range.contains(facts.direct)),
            Self::Client(range) => facts.judge_client(range),
        }
    }

    /// Whether any rule in it asks for the server name.
    pub(super) fn asks_server_name(&self) -> bool {
        match self {
            Self::ServerName(_) => true,
            Self::All(rules) | Self::Any(rules) => rules.iter().any(Self::asks_server_name),
            Self::Not(rule) => rule.asks_server_name(),
            _ => false,
        }
    }
}
