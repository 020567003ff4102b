//! The `authorization` header, and what a token says of itself before anybody believes it.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde::Deserialize;

use super::refusal::{Reason, Refusal};
use super::tokens;

/// The longest token that is looked at. Kubernetes' have about 1.2 KiB.
const LONGEST: usize = 8 * 1024;

const SCHEME: &str = "bearer ";

/// The token of a call, if it carries one.
///
/// # Errors
/// When there are several headers, another scheme, or nothing behind the scheme: which of them a caller meant is not guessed.
pub(super) fn token(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::new(
            Reason::TwoTokens,
            "the call has more than one authorization header: send one",
        ));
    }
    let text = value.to_str().map_err(|_| tokens::malformed())?;
    let scheme = text.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME));
    let token = text.get(SCHEME.len()..).unwrap_or_default();
    if !scheme || token.is_empty() {
        return Err(Refusal::new(
            Reason::NotBearer,
            "the authorization header is not `Bearer <token>`: is the token file empty?",
        ));
    }
    if token.len() > LONGEST || !token.bytes().all(is_token_byte) {
        return Err(tokens::malformed());
    }
    Ok(Some(token))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.')
}

/// What an unverified token says: enough to know whom to ask about it, and that nobody needs to be asked.
#[derive(Debug, Deserialize)]
pub(super) struct Claim {
    /// Who is said to have signed it.
    pub(super) iss: String,
    /// When it is said to end.
    #[serde(default)]
    pub(super) exp: Option<u64>,
}

/// Reads what a token says of itself.
///
/// # Errors
/// When it is not in the form of a token. It then goes nowhere: an API server need not see what strangers send.
pub(super) fn peek(token: &str) -> Result<Claim, Refusal> {
    if token.split('.').count() != 3 {
        return Err(tokens::malformed());
    }
    jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| tokens::malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn one_bearer_token_or_none() {
        assert_eq!(token(&headers(&[])), Ok(None));
        assert_eq!(token(&headers(&["Bearer a.b.c"])), Ok(Some("a.b.c")));
        assert_eq!(token(&headers(&["bearer a.b.c"])), Ok(Some("a.b.c")));
        for (values, reason) in [
            (vec!["Bearer a.b.c", "Bearer a.b.c"], Reason::TwoTokens),
            (vec!["Bearer a.b.c", ""], Reason::TwoTokens),
            (vec!["Bearer "], Reason::NotBearer),
            (vec!["Bearer"], Reason::NotBearer),
            (vec![""], Reason::NotBearer),
            (vec!["Basic YTpi"], Reason::NotBearer),
            (vec!["Bearer a.b.c, Bearer d.e.f"], Reason::TokenMalformed),
            (vec!["Bearer  a.b.c"], Reason::TokenMalformed),
        ] {
            assert_eq!(token(&headers(&values)).unwrap_err().reason, reason, "{values:?}");
        }
        let long = format!("Bearer {}", "a".repeat(LONGEST + 1));
        assert_eq!(token(&headers(&[&long])).unwrap_err().reason, Reason::TokenMalformed);
    }

    #[test]
    fn what_is_no_token_goes_nowhere() {
        for text in ["", "a", "a.b", "a.b.c", "..", "e30.e30", "e30.W10.x", "a.b.c.d", "e30.eyJpc3MiOjF9.x"] {
            assert_eq!(peek(text).unwrap_err().reason, Reason::TokenMalformed, "{text}");
        }
        // {"iss":"a","iss":"sidegate"}: two readers could read it differently.
        let twice = "e30.eyJpc3MiOiJhIiwiaXNzIjoic2lkZWdhdGUifQ.x";
        assert_eq!(peek(twice).unwrap_err().reason, Reason::TokenMalformed);
        // {"iss":"k8s","exp":5} under a header that the library need not know.
        assert_eq!(peek("eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrOHMiLCJleHAiOjV9.x").unwrap().exp, Some(5));
    }
}
