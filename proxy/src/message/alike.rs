//! Names that differ only by underscores for dashes: to a server that puts headers into variables (CGI, WSGI and their kin) `X_User` is
//! `X-User` (A27).

use super::Headers;

impl Headers {
    /// Whether there is a field that such a server takes for this one, under another name.
    pub(crate) fn has_alike(&self, name: &str) -> bool {
        may_have_alike(name) && self.iter().any(|(candidate, _)| is_alike(candidate, name.as_bytes()))
    }

    /// Removes every field of that name (lower case), and what such a server takes for it.
    pub(crate) fn remove_alike(&mut self, name: &str) {
        self.remove(name);
        self.drop_alike(name);
    }

    /// Removes what such a server takes for this field.
    pub(crate) fn drop_alike(&mut self, name: &str) {
        if self.has_alike(name) {
            self.retain(|candidate, _| !is_alike(candidate, name.as_bytes()));
        }
    }

    /// Removes what such a server takes for one of the fields by which proxies tell each other and the application who asks.
    pub(crate) fn remove_alike_of_proxies(&mut self) {
        let unwanted = |name: &[u8]| {
            name.contains(&b'_')
                && PROXIES
                    .iter()
                    .any(|start| name.get(..start.len()).is_some_and(|own| folded(own).eq(start.bytes())))
        };
        if self.iter().any(|(name, _)| unwanted(name)) {
            self.retain(|name, _| !unwanted(name));
        }
    }
}

const PROXIES: [&str; 4] = ["x-forwarded-", "x-envoy-", "x-sidegate-", "x-request-id"];

fn may_have_alike(name: &str) -> bool {
    name.contains(['-', '_'])
}

fn is_alike(candidate: &[u8], name: &[u8]) -> bool {
    candidate.len() == name.len()
        && candidate.contains(&b'_')
        && !candidate.eq_ignore_ascii_case(name)
        && folded(candidate).eq(folded(name))
}

fn folded(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().map(|byte| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() })
}

#[cfg(test)]
mod tests {
    use super::super::{Name, Value};
    use super::*;

    #[test]
    fn a27_underscores_for_dashes() {
        let of = |names: &[&'static str]| {
            let mut headers = Headers::new();
            names.iter().for_each(|name| headers.append(Name::Static(name), Value::Static("v")));
            headers
        };
        for (names, name, alike) in [
            (&["X_User"][..], "x-user", true),
            (&["X-User"], "x-user", false),
            (&["x_user", "x-user"], "x-user", true),
            (&["x_user"], "x_user", false),
            (&["x-user"], "x_user", false),
            (&["x_usex"], "x-user", false),
            (&["author_zation"], "authorization", false),
        ] {
            assert_eq!(of(names).has_alike(name), alike, "{names:?} {name}");
        }
        let mut headers = of(&["X_User", "x-user", "x-other", "x_other"]);
        headers.remove_alike("x-user");
        assert_eq!(headers.iter().map(|(name, _)| name).collect::<Vec<_>>(), [b"x-other", b"x_other"]);
        let mut headers =
            of(&["X_Forwarded_Client_Cert", "x-forwarded_for", "x_envoy-a", "x_request-id", "x_app"]);
        headers.remove_alike_of_proxies();
        assert_eq!(headers.iter().map(|(name, _)| name).collect::<Vec<_>>(), [b"x_app"]);
    }
}
