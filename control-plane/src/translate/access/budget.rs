//! Whether a proxy will take what is made of a rule: one rule beyond its bounds would have it refuse the listener, and keep the last form
//! of everything else there.

use sidegate_xds::bounds::{LARGEST_PROGRAM, LONGEST_PATTERN, MOST_REGEXES, MOST_RULES};
use sidegate_xds::envoy::config::core::v3::TypedExtensionConfig;
use sidegate_xds::envoy::config::rbac::v3::permission::Rule;
use sidegate_xds::envoy::config::rbac::v3::principal::Identifier;
use sidegate_xds::envoy::config::rbac::v3::{Permission, Policy, Principal, SourcedMetadata};
use sidegate_xds::envoy::config::route::v3::HeaderMatcher;
use sidegate_xds::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use sidegate_xds::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use sidegate_xds::envoy::r#type::matcher::v3::{
    StringMatcher, ValueMatcher, list_matcher, path_matcher, string_matcher::MatchPattern, value_matcher,
};
use sidegate_xds::path_template::PathTemplate;
use sidegate_xds::resource::from_any;

/// What one filter may still hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    rules: usize,
    regexes: usize,
}

impl Budget {
    /// Of a filter with nothing in it. What stands in for all rules that find no room has its place already.
    pub(super) fn new() -> Self {
        Self { rules: MOST_RULES - 2, regexes: MOST_REGEXES }
    }

    /// Takes a rule into the filter; an error says why it cannot be sent, and takes nothing.
    pub(super) fn take(&mut self, policy: &Policy) -> Result<(), String> {
        let mut left = *self;
        policy.permissions.iter().try_for_each(|permission| left.permission(permission))?;
        policy.principals.iter().try_for_each(|principal| left.principal(principal))?;
        *self = left;
        Ok(())
    }

    fn rule(&mut self) -> Result<(), String> {
        let left = self.rules.checked_sub(1);
        self.rules = left.ok_or_else(|| format!("there are more than {MOST_RULES} terms at one place"))?;
        Ok(())
    }

    fn permission(&mut self, permission: &Permission) -> Result<(), String> {
        self.rule()?;
        match &permission.rule {
            Some(Rule::AndRules(set) | Rule::OrRules(set)) => {
                set.rules.iter().try_for_each(|rule| self.permission(rule))
            }
            Some(Rule::NotRule(rule)) => self.permission(rule),
            Some(Rule::Header(header)) => self.header(header),
            Some(Rule::UrlPath(path)) => match &path.rule {
                Some(path_matcher::Rule::Path(text)) => self.text(text),
                None => Ok(()),
            },
            Some(Rule::RequestedServerName(text)) => self.text(text),
            Some(Rule::UriTemplate(config)) => template(config),
            _ => Ok(()),
        }
    }

    fn principal(&mut self, principal: &Principal) -> Result<(), String> {
        self.rule()?;
        match &principal.identifier {
            Some(Identifier::AndIds(set) | Identifier::OrIds(set)) => {
                set.ids.iter().try_for_each(|id| self.principal(id))
            }
            Some(Identifier::NotId(id)) => self.principal(id),
            Some(Identifier::Header(header)) => self.header(header),
            Some(Identifier::Authenticated(name)) => {
                name.principal_name.as_ref().map_or(Ok(()), |text| self.text(text))
            }
            Some(Identifier::SourcedMetadata(SourcedMetadata {
                metadata_matcher: Some(matcher), ..
            })) => matcher.value.as_ref().map_or(Ok(()), |value| self.value(value)),
            _ => Ok(()),
        }
    }

    fn header(&mut self, header: &HeaderMatcher) -> Result<(), String> {
        match &header.header_match_specifier {
            Some(HeaderMatchSpecifier::StringMatch(text)) => self.text(text),
            _ => Ok(()),
        }
    }

    fn value(&mut self, value: &ValueMatcher) -> Result<(), String> {
        self.rule()?;
        match &value.match_pattern {
            Some(value_matcher::MatchPattern::StringMatch(text)) => self.text(text),
            Some(value_matcher::MatchPattern::ListMatch(list)) => match &list.match_pattern {
                Some(list_matcher::MatchPattern::OneOf(value)) => self.value(value),
                None => Ok(()),
            },
            Some(value_matcher::MatchPattern::OrMatch(either)) => {
                either.value_matchers.iter().try_for_each(|value| self.value(value))
            }
            _ => Ok(()),
        }
    }

    fn text(&mut self, text: &StringMatcher) -> Result<(), String> {
        let Some(MatchPattern::SafeRegex(pattern)) = &text.match_pattern else { return Ok(()) };
        let left = self.regexes.checked_sub(1);
        self.regexes = left.ok_or_else(|| {
            format!("there are more than {MOST_REGEXES} values with wildcards that need regular expressions at one place")
        })?;
        let length = pattern.regex.len();
        // The proxy puts an anchor at both ends.
        let builds = || {
            let whole = format!(r"\A(?:{})\z", pattern.regex);
            regex::RegexBuilder::new(&whole).size_limit(LARGEST_PROGRAM).build().is_ok()
        };
        let fits = length <= SURELY_SMALL || (length <= LONGEST_PATTERN && builds());
        if fits { Ok(()) } else { Err("a value with wildcards is too long".to_owned()) }
    }
}

/// Bytes of a pattern of ours whose program is small enough, whatever is in it.
const SURELY_SMALL: usize = 1024;

fn template(config: &TypedExtensionConfig) -> Result<(), String> {
    let config = config.typed_config.as_ref().and_then(|any| from_any::<UriTemplateMatchConfig>(any).ok());
    let text = config.map(|config| config.path_template).unwrap_or_default();
    PathTemplate::parse(&text).map(drop).map_err(|error| format!("the template {text:?} {error}"))
}
