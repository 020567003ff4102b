//! Matches and their precedence.

use sidegate_xds::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use sidegate_xds::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use sidegate_xds::envoy::config::route::v3::route_match::PathSpecifier;
use sidegate_xds::envoy::config::route::v3::{Route, RouteMatch};
use sidegate_xds::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};

use super::fixture::{GATEWAY, SERVICES, Shown, gateway};

/// A route `shop/web` with these matches in one rule.
fn matching(matches: &str) -> Shown {
    gateway(&(GATEWAY.to_owned() + SERVICES + &route("web", "", &[matches])))
}

/// A route with one rule for each of these lists of matches.
fn route(name: &str, metadata: &str, rules: &[&str]) -> String {
    let mut yaml = format!(
        "---\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: shop{metadata}}}\n\
         spec:\n  parentRefs: [{{name: public, namespace: edge}}]\n  rules:\n"
    );
    for matches in rules {
        yaml += &format!("  - {{matches: [{matches}], backendRefs: [{{name: web, port: 80}}]}}\n");
    }
    yaml
}

fn the_match(shown: &Shown) -> RouteMatch {
    shown.route().r#match.unwrap()
}

fn text(matcher: &StringMatcher) -> String {
    match matcher.match_pattern.as_ref().unwrap() {
        MatchPattern::Exact(text) => format!("={text}"),
        MatchPattern::SafeRegex(regex) => format!("~{}", regex.regex),
        other => panic!("{other:?}"),
    }
}

fn show(route: &Route) -> String {
    let given = route.r#match.clone().unwrap();
    let mut parts = vec![match given.path_specifier.unwrap() {
        PathSpecifier::Prefix(path) => format!("{path}*"),
        PathSpecifier::Path(path) => path,
        PathSpecifier::PathSeparatedPrefix(path) => format!("{path}/*"),
        PathSpecifier::SafeRegex(regex) => format!("~{}", regex.regex),
        other => panic!("{other:?}"),
    }];
    for header in given.headers {
        let Some(HeaderMatchSpecifier::StringMatch(matcher)) = &header.header_match_specifier else {
            panic!()
        };
        parts.push(format!("{}{}", header.name, text(matcher)));
    }
    for parameter in given.query_parameters {
        let Some(QueryParameterMatchSpecifier::StringMatch(matcher)) =
            &parameter.query_parameter_match_specifier
        else {
            panic!()
        };
        parts.push(format!("?{}{}", parameter.name, text(matcher)));
    }
    parts.join(" ")
}

#[test]
fn each_kind_of_match_has_its_form() {
    let table = [
        ("{}", "/*"),
        ("{path: {value: /}}", "/*"),
        ("{path: {type: PathPrefix, value: /a}}", "/a/*"),
        ("{path: {type: PathPrefix, value: /a/}}", "/a/*"),
        ("{path: {type: Exact, value: /a/}}", "/a/"),
        ("{path: {type: RegularExpression, value: '/[a-z]+'}}", "~/[a-z]+"),
        ("{method: DELETE}", "/* :method=DELETE"),
        ("{headers: [{name: X-Version, value: v2}]}", "/* x-version=v2"),
        ("{headers: [{name: a, value: 'b.*', type: RegularExpression}]}", "/* a~b.*"),
        ("{headers: [{name: a, value: '1'}, {name: A, value: '2'}]}", "/* a=1"),
        ("{queryParams: [{name: q, value: x}, {name: q, value: y}, {name: Q, value: z}]}", "/* ?q=x ?Q=z"),
        ("{queryParams: [{name: q, value: '[0-9]+', type: RegularExpression}]}", "/* ?q~[0-9]+"),
        ("{path: {value: /a}, method: GET, headers: [{name: h, value: v}]}", "/a/* :method=GET h=v"),
    ];
    for (matches, expected) in table {
        assert_eq!(show(&matching(matches).route()), expected, "{matches}");
    }
}

#[test]
fn a_rule_without_matches_matches_everything() {
    let yaml = GATEWAY.to_owned() + SERVICES + &route("web", "", &["{}"]).replace("matches: [{}], ", "");
    assert_eq!(show(&gateway(&yaml).route()), "/*");
}

#[test]
fn a_rule_whose_match_cannot_be_expressed_is_left_out() {
    let table = [
        ("{path: {value: a}}", "path.value: \"a\" must start with /"),
        ("{path: {value: /a?b}}", "must be a path only"),
        ("{path: {value: /a//b}}", "must not contain //"),
        ("{path: {value: /a/..}}", "must not contain //"),
        ("{path: {type: RegularExpression, value: '/('}}", "is not a regular expression"),
        ("{path: {type: RegularExpression, value: '/a(?=b)'}}", "is not a regular expression"),
        ("{path: {type: RegularExpression, value: ''}}", "an empty regular expression"),
        ("{path: {type: RegularExpression, value: '/a{1,2000}'}}", "a repetition of more than 1000"),
        ("{path: {type: RegularExpression, value: '(?x) /a'}}", "a flag other than i, m, s and U"),
        ("{path: {type: RegularExpression, value: '/\\b{start}a'}}", "a word boundary"),
        ("{headers: [{name: 'a b', value: x}]}", "headers[0]: \"a b\" is not a name of a header"),
        (
            "{headers: [{name: a, type: RegularExpression, value: '['}]}",
            "headers[0]: \"[\" is not a regular expression",
        ),
        ("{queryParams: [{name: '', value: x}]}", "queryParams[0]: the name must have"),
    ];
    for (matches, expected) in table {
        let shown = matching(matches);
        assert!(shown.routes("*").is_empty(), "{matches}");
        let said = shown.said("HTTPRoute shop/web");
        assert!(said.contains(&"PartiallyInvalid=true UnsupportedValue".to_owned()), "{matches}: {said:?}");
        assert!(said.contains(&"Accepted=false UnsupportedValue".to_owned()), "{matches}: {said:?}");
        let messages: Vec<_> = shown.0.verdicts.iter().map(|verdict| verdict.message.clone()).collect();
        assert!(messages.iter().any(|message| message.contains(expected)), "{matches}: {messages:?}");
    }
    // The other rules of the route stay.
    let yaml = GATEWAY.to_owned()
        + SERVICES
        + &route("web", "", &["{path: {value: bad}}", "{path: {value: /good}}"]);
    let shown = gateway(&yaml);
    assert_eq!(shown.routes("*").len(), 1);
    assert_eq!(shown.said("HTTPRoute shop/web")[0], "Accepted=true Accepted");
    assert!(shown.message("UnsupportedValue").starts_with("spec.rules[0].matches[0].path.value"));
}

#[test]
fn a_prefix_of_whole_elements_never_ends_in_a_slash() {
    let Some(PathSpecifier::PathSeparatedPrefix(prefix)) =
        the_match(&matching("{path: {value: /a/b/}}")).path_specifier
    else {
        panic!("not separated")
    };
    assert_eq!(prefix, "/a/b");
}

#[test]
fn routes_come_in_the_order_of_precedence() {
    let rules = [
        "{}",
        "{path: {value: /a}}",
        "{path: {value: /a/long}}",
        "{path: {type: RegularExpression, value: '/x.*'}}",
        "{path: {type: Exact, value: /e}}",
        "{path: {value: /a}, headers: [{name: h, value: '1'}, {name: i, value: '1'}]}",
        "{path: {value: /a}, headers: [{name: h, value: '1'}]}",
        "{path: {value: /a}, method: GET}",
        "{path: {value: /a}, headers: [{name: h, value: '2'}], queryParams: [{name: q, value: '1'}]}",
        "{path: {value: /a}, queryParams: [{name: q, value: '1'}]}",
    ];
    let yaml = GATEWAY.to_owned() + SERVICES + &route("web", "", &rules);
    let shown: Vec<String> = gateway(&yaml).routes("*").iter().map(show).collect();
    assert_eq!(
        shown,
        [
            "/e",
            "~/x.*",
            "/a/long/*",
            "/a/* :method=GET",
            "/a/* h=1 i=1",
            "/a/* h=2 ?q=1",
            "/a/* h=1",
            "/a/* ?q=1",
            "/a/*",
            "/*"
        ]
    );
}

#[test]
fn ties_go_to_the_older_route_then_the_lower_name_then_the_earlier_rule() {
    let created = |at: &str| format!(", creationTimestamp: '{at}'");
    let yaml = GATEWAY.to_owned()
        + SERVICES
        + &route("c-unknown-age", "", &["{}"])
        + &route("b-young", &created("2024-02-01T00:00:00Z"), &["{}", "{}"])
        + &route("z-old", &created("2024-01-01T00:00:00Z"), &["{}"])
        + &route("a-young", &created("2024-02-01T00:00:00Z"), &["{}"])
        + &route("a-unknown-age", "", &["{path: {value: /longer}}", "{}"]);
    let names: Vec<String> = gateway(&yaml).routes("*").into_iter().map(|route| route.name).collect();
    let expected = [
        "shop/a-unknown-age/0",
        "shop/z-old/0",
        "shop/a-young/0",
        "shop/b-young/0",
        "shop/b-young/1",
        "shop/a-unknown-age/1",
        "shop/c-unknown-age/0",
    ];
    assert_eq!(names, expected.map(|name| format!("HTTPRoute/{name}/0")));
}
