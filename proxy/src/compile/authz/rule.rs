//! `Permission` and `Principal` → `Rule`.

use std::net::IpAddr;

use sidegate_xds::envoy::config::core::v3 as core;
use sidegate_xds::envoy::config::rbac::v3 as wire;
use sidegate_xds::envoy::config::route::v3::HeaderMatcher;
use sidegate_xds::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier as Specifier;
use sidegate_xds::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use sidegate_xds::envoy::extensions::rbac::principals::mtls_authenticated::v3 as mtls;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use sidegate_xds::envoy::r#type::matcher::v3 as matcher;
use sidegate_xds::path_template::PathTemplate;
use wire::permission::Rule as Permitted;
use wire::principal::Identifier;

use super::{Budget, MOST_DEPTH, decode, text};
use crate::compile::extension;
use crate::compile::problem::{At, Problem, fail};
use crate::compile::value;
use crate::filter::authz::{FieldName, FieldRule, FieldTest, PathTest, Range, Rule, Template, Text};

const URI_TEMPLATE: &str = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig";
const MTLS: &str = "envoy.extensions.rbac.principals.mtls_authenticated.v3.Config";

/// One of these permissions.
pub(super) fn permissions(
    wire: &[wire::Permission],
    budget: &mut Budget,
    depth: usize,
) -> Result<Rule, Problem> {
    let one = |wire: &wire::Permission, budget: &mut Budget| permission(wire, budget, depth + 1);
    Ok(any_of(list("permissions", wire, budget, one)?))
}

/// One of these principals.
pub(super) fn principals(
    wire: &[wire::Principal],
    budget: &mut Budget,
    depth: usize,
) -> Result<Rule, Problem> {
    let one = |wire: &wire::Principal, budget: &mut Budget| principal(wire, budget, depth + 1);
    Ok(any_of(list("principals", wire, budget, one)?))
}

fn list<W>(
    place: &str,
    wire: &[W],
    budget: &mut Budget,
    one: impl Fn(&W, &mut Budget) -> Result<Rule, Problem>,
) -> Result<Vec<Rule>, Problem> {
    if wire.is_empty() {
        return fail("needs at least one").at(place);
    }
    let mut rules = Vec::with_capacity(wire.len());
    for (index, wire) in wire.iter().enumerate() {
        budget.take_rule()?;
        rules.push(one(wire, budget).at(format_args!("{place}[{index}]"))?);
    }
    Ok(rules)
}

/// A list of one is that one.
fn any_of(mut rules: Vec<Rule>) -> Rule {
    if rules.len() == 1 { rules.remove(0) } else { Rule::Any(rules.into()) }
}

fn all_of(mut rules: Vec<Rule>) -> Rule {
    if rules.len() == 1 { rules.remove(0) } else { Rule::All(rules.into()) }
}

fn permission(wire: &wire::Permission, budget: &mut Budget, depth: usize) -> Result<Rule, Problem> {
    check_depth(depth)?;
    let Some(rule) = &wire.rule else { return fail("has no rule that this proxy knows") };
    let one = |wire: &wire::Permission, budget: &mut Budget| permission(wire, budget, depth + 1);
    Ok(match rule {
        Permitted::AndRules(set) => all_of(list("and_rules.rules", &set.rules, budget, one)?),
        Permitted::OrRules(set) => any_of(list("or_rules.rules", &set.rules, budget, one)?),
        Permitted::NotRule(inner) => {
            budget.take_rule()?;
            Rule::Not(Box::new(permission(inner, budget, depth + 1).at("not_rule")?))
        }
        Permitted::Any(any) => always(*any)?,
        Permitted::Header(header) => field(header, budget).at("header")?,
        Permitted::UrlPath(path) => url_path(path, budget).at("url_path")?,
        Permitted::UriTemplate(config) => template(config, budget).at("uri_template")?,
        Permitted::DestinationIp(range) => Rule::Destination(cidr(range).at("destination_ip")?),
        Permitted::DestinationPort(port) => match i32::try_from(*port) {
            Ok(port @ 0..=65_535) => Rule::Ports(port, port + 1),
            _ => return fail(format!("{port} is not a port")).at("destination_port"),
        },
        Permitted::DestinationPortRange(range) => {
            ports(range.start, range.end).at("destination_port_range")?
        }
        #[allow(deprecated, reason = "control planes still send it")]
        Permitted::Metadata(metadata) => attribute(metadata, budget).at("metadata")?,
        Permitted::SourcedMetadata(metadata) => sourced(metadata, budget).at("sourced_metadata")?,
        Permitted::RequestedServerName(name) => {
            Rule::ServerName(Box::new(text::string(name, budget).at("requested_server_name")?))
        }
        Permitted::Matcher(config) => return not_supported(config).at("matcher"),
    })
}

fn principal(wire: &wire::Principal, budget: &mut Budget, depth: usize) -> Result<Rule, Problem> {
    check_depth(depth)?;
    let Some(identifier) = &wire.identifier else { return fail("has no identifier that this proxy knows") };
    let one = |wire: &wire::Principal, budget: &mut Budget| principal(wire, budget, depth + 1);
    Ok(match identifier {
        Identifier::AndIds(set) => all_of(list("and_ids.ids", &set.ids, budget, one)?),
        Identifier::OrIds(set) => any_of(list("or_ids.ids", &set.ids, budget, one)?),
        Identifier::NotId(inner) => {
            budget.take_rule()?;
            Rule::Not(Box::new(principal(inner, budget, depth + 1).at("not_id")?))
        }
        Identifier::Any(any) => always(*any)?,
        Identifier::Authenticated(authenticated) => {
            let name = authenticated.principal_name.as_ref().map(|name| text::string(name, budget));
            Rule::Peer(name.transpose().at("authenticated.principal_name")?.map(Box::new))
        }
        Identifier::Custom(config) => custom(config, budget).at("custom")?,
        #[allow(deprecated, reason = "control planes still send it")]
        Identifier::SourceIp(range) => Rule::Source(cidr(range).at("source_ip")?),
        Identifier::DirectRemoteIp(range) => Rule::Direct(cidr(range).at("direct_remote_ip")?),
        Identifier::RemoteIp(range) => Rule::Client(cidr(range).at("remote_ip")?),
        Identifier::Header(header) => field(header, budget).at("header")?,
        Identifier::UrlPath(path) => url_path(path, budget).at("url_path")?,
        #[allow(deprecated, reason = "control planes still send it")]
        Identifier::Metadata(metadata) => attribute(metadata, budget).at("metadata")?,
        Identifier::SourcedMetadata(metadata) => sourced(metadata, budget).at("sourced_metadata")?,
        Identifier::FilterState(_) => return fail("is not supported yet").at("filter_state"),
    })
}

fn check_depth(depth: usize) -> Result<(), Problem> {
    if depth > MOST_DEPTH { fail(format!("rules within rules, more than {MOST_DEPTH} deep")) } else { Ok(()) }
}

fn always(any: bool) -> Result<Rule, Problem> {
    // Envoy refuses it too: what it would mean is anybody's guess.
    if any { Ok(Rule::Always) } else { fail("must be true").at("any") }
}

fn cidr(wire: &core::CidrRange) -> Result<Range, Problem> {
    let address: Result<IpAddr, _> = wire.address_prefix.parse();
    let address = address.map_err(|_| {
        Problem::new(format!("{:?} is not an IP address", wire.address_prefix)).at("address_prefix")
    })?;
    let length = value::number(wire.prefix_len.as_ref()).unwrap_or(0);
    Range::new(address, length)
        .ok_or_else(|| Problem::new(format!("{length} is more than the address has bits")).at("prefix_len"))
}

fn ports(start: i32, end: i32) -> Result<Rule, Problem> {
    if !(0..=65_535).contains(&start) || end <= start || end > 65_536 {
        return fail(format!("from {start} to below {end} is not a range of ports"));
    }
    Ok(Rule::Ports(start, end))
}

/// What only requests have cannot be asked of a connection.
fn needs_request(budget: &Budget) -> Result<(), Problem> {
    if budget.http { Ok(()) } else { fail("a connection has none: only the HTTP filter can judge this") }
}

fn field(wire: &HeaderMatcher, budget: &mut Budget) -> Result<Rule, Problem> {
    needs_request(budget)?;
    let mut invert = wire.invert_match;
    let name = match wire.name.to_ascii_lowercase().as_str() {
        "" => return fail("is required").at("name"),
        ":method" => FieldName::Method,
        ":path" => FieldName::Path,
        ":scheme" => FieldName::Scheme,
        ":authority" | "host" => FieldName::Authority,
        name if name.starts_with(':') => return fail(format!("{name} is not known")).at("name"),
        name => FieldName::Field(name.into()),
    };
    let exactly = |text| FieldTest::Text(text);
    let test = match &wire.header_match_specifier {
        None | Some(Specifier::PresentMatch(true)) => FieldTest::Present,
        Some(Specifier::PresentMatch(false)) => {
            invert = !invert;
            FieldTest::Present
        }
        Some(Specifier::StringMatch(test)) => exactly(text::string(test, budget).at("string_match")?),
        Some(Specifier::ExactMatch(text)) => exactly(Text::exact(text, false)),
        Some(Specifier::PrefixMatch(text)) => exactly(Text::prefix(text, false)),
        Some(Specifier::SuffixMatch(text)) => exactly(Text::suffix(text, false)),
        Some(Specifier::ContainsMatch(text)) => exactly(Text::contains(text, false)),
        Some(Specifier::SafeRegexMatch(regex)) => exactly(text::regex(regex, budget).at("safe_regex_match")?),
        Some(Specifier::RangeMatch(range)) => FieldTest::Range(range.start, range.end),
    };
    let missing_as_empty = wire.treat_missing_header_as_empty;
    if missing_as_empty && !matches!(test, FieldTest::Text(_)) {
        return fail("means something with a test of text only").at("treat_missing_header_as_empty");
    }
    Ok(Rule::Field(Box::new(FieldRule { name, test, invert, missing_as_empty })))
}

fn url_path(wire: &matcher::PathMatcher, budget: &mut Budget) -> Result<Rule, Problem> {
    needs_request(budget)?;
    match &wire.rule {
        Some(matcher::path_matcher::Rule::Path(test)) => {
            Ok(Rule::Path(Box::new(PathTest::Text(text::string(test, budget).at("path")?))))
        }
        None => fail("is required").at("path"),
    }
}

fn template(wire: &core::TypedExtensionConfig, budget: &Budget) -> Result<Rule, Problem> {
    needs_request(budget)?;
    let Some(any) = wire.typed_config.as_ref().filter(|any| extension::type_name(any) == URI_TEMPLATE) else {
        return not_supported(wire);
    };
    let config: UriTemplateMatchConfig = decode(any)?;
    match PathTemplate::parse(&config.path_template) {
        Ok(PathTemplate { segments, rest }) => {
            Ok(Rule::Path(Box::new(PathTest::Template(Template::new(segments, rest)))))
        }
        Err(error) => fail(format!("{:?} {error}", config.path_template)).at("path_template"),
    }
}

/// `envoy.rbac.principals.mtls_authenticated`.
fn custom(wire: &core::TypedExtensionConfig, budget: &mut Budget) -> Result<Rule, Problem> {
    let Some(any) = wire.typed_config.as_ref().filter(|any| extension::type_name(any) == MTLS) else {
        return not_supported(wire);
    };
    let config: mtls::Config = decode(any)?;
    let Some(san) = &config.san_matcher else {
        return match config.any_validated_client_certificate {
            true => Ok(Rule::Peer(None)),
            false => fail("needs san_matcher or any_validated_client_certificate"),
        };
    };
    let Some(test) = &san.matcher else { return fail("is required").at("san_matcher.matcher") };
    let test = text::string(test, budget).at("san_matcher.matcher")?;
    match value::choice(san.san_type).at("san_matcher.san_type")? {
        SanType::Uri => Ok(Rule::PeerUri(Box::new(test))),
        SanType::Email => Ok(Rule::PeerEmail(Box::new(test))),
        SanType::Unspecified | SanType::Dns | SanType::IpAddress | SanType::OtherName => {
            fail("only URI and EMAIL are supported").at("san_matcher.san_type")
        }
    }
}

fn not_supported<T>(wire: &core::TypedExtensionConfig) -> Result<T, Problem> {
    let kind = wire.typed_config.as_ref().map(extension::type_name).unwrap_or_default();
    fail(format!("{} ({kind}) is not supported by this proxy", wire.name))
}

fn sourced(wire: &wire::SourcedMetadata, budget: &mut Budget) -> Result<Rule, Problem> {
    match value::choice(wire.metadata_source).at("metadata_source")? {
        wire::MetadataSource::Dynamic => {}
        wire::MetadataSource::Route => return fail("ROUTE is not supported yet").at("metadata_source"),
    }
    match &wire.metadata_matcher {
        Some(metadata) => attribute(metadata, budget).at("metadata_matcher"),
        None => fail("is required").at("metadata_matcher"),
    }
}

fn attribute(wire: &matcher::MetadataMatcher, budget: &mut Budget) -> Result<Rule, Problem> {
    needs_request(budget)?;
    Ok(Rule::Attribute(Box::new(text::attribute(wire, budget)?)))
}
