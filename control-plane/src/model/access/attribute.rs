//! The attributes that a condition can name: `request.headers[x-token]`, `source.ip`, …

/// An attribute of a request or connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// `request.headers[<name>]`.
    Header(String),
    /// `source.ip`: the connection's other end.
    SourceIp,
    /// `remote.ip`: the client, as trusted proxies report it.
    RemoteIp,
    /// `source.namespace`.
    SourceNamespace,
    /// `source.principal`.
    SourcePrincipal,
    /// `source.serviceAccount`.
    SourceServiceAccount,
    /// `request.auth.principal`: `<issuer>/<subject>`.
    RequestPrincipal,
    /// `request.auth.audiences`.
    Audiences,
    /// `request.auth.presenter`: the claim `azp`.
    Presenter,
    /// `request.auth.claims[<name>]…`: a claim, or one inside of another.
    Claim(Vec<String>),
    /// `destination.ip`.
    DestinationIp,
    /// `destination.port`.
    DestinationPort,
    /// `connection.sni`.
    Sni,
}

impl Attribute {
    /// Reads a condition's key.
    ///
    /// # Errors
    /// Says which keys there are.
    pub fn parse(key: &str) -> Result<Self, String> {
        let attribute = match key {
            "source.ip" => Self::SourceIp,
            "remote.ip" => Self::RemoteIp,
            "source.namespace" => Self::SourceNamespace,
            "source.principal" => Self::SourcePrincipal,
            "source.serviceAccount" => Self::SourceServiceAccount,
            "request.auth.principal" => Self::RequestPrincipal,
            "request.auth.audiences" => Self::Audiences,
            "request.auth.presenter" => Self::Presenter,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "connection.sni" => Self::Sni,
            _ => return Self::named(key).ok_or_else(|| unknown(key)),
        };
        Ok(attribute)
    }

    fn named(key: &str) -> Option<Self> {
        let bracketed = |prefix: &str| {
            let inside = key.strip_prefix(prefix)?.strip_prefix('[')?.strip_suffix(']')?;
            Some(inside.split("][").map(str::to_owned).collect::<Vec<_>>())
                .filter(|names| names.iter().all(|name| !name.is_empty() && !name.contains(['[', ']'])))
        };
        if let Some(names) = bracketed("request.headers") {
            let [name] = <[String; 1]>::try_from(names).ok()?;
            return http::HeaderName::from_bytes(name.as_bytes())
                .ok()
                .map(|name| Self::Header(name.as_str().to_owned()));
        }
        bracketed("request.auth.claims").map(Self::Claim)
    }

    /// Whether only HTTP requests have it.
    pub fn is_of_requests(&self) -> bool {
        matches!(
            self,
            Self::Header(_)
                | Self::RemoteIp
                | Self::RequestPrincipal
                | Self::Audiences
                | Self::Presenter
                | Self::Claim(_)
        )
    }
}

fn unknown(key: &str) -> String {
    let key: String = key.chars().take(80).collect();
    format!(
        "{key:?} is no attribute: write request.headers[NAME], request.auth.principal, request.auth.audiences, request.auth.presenter, \
         request.auth.claims[NAME], source.ip, remote.ip, source.namespace, source.principal, source.serviceAccount, destination.ip, \
         destination.port or connection.sni"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_whole_or_not_at_all() {
        let claim =
            |names: &[&str]| Ok(Attribute::Claim(names.iter().map(|&name| name.to_owned()).collect()));
        for (key, attribute) in [
            ("request.headers[X-Token]", Ok(Attribute::Header("x-token".to_owned()))),
            ("request.auth.claims[groups]", claim(&["groups"])),
            ("request.auth.claims[a][b.c]", claim(&["a", "b.c"])),
            ("source.ip", Ok(Attribute::SourceIp)),
        ] {
            assert_eq!(Attribute::parse(key), attribute, "{key}");
        }
        for key in [
            "",
            "source",
            "request.headers",
            "request.headers[]",
            "request.headers[a][b]",
            "request.headers[a b]",
            "request.headers[a",
            "request.auth.claims[a]b",
            "request.auth.claims[a][]",
            "request.auth.claims[a[b]]",
            "experimental.envoy.filters.x",
        ] {
            assert!(Attribute::parse(key).is_err(), "{key}");
        }
    }
}
