//! What our proxy takes at most of one filter.
//!
//! A filter beyond them is refused, and with it the whole listener, which then keeps its last form: everything that comes later waits for it.
//! So a control plane must know them.

/// Policies of one set of RBAC rules.
pub const MOST_POLICIES: usize = 4_096;

/// Rules of one RBAC filter, in all: each permission, principal, and test of a value.
pub const MOST_RULES: usize = 65_536;

/// Regular expressions of one RBAC filter: each may take a megabyte.
pub const MOST_REGEXES: usize = 1_024;

/// Bytes of a regular expression. Reading a pattern takes time and memory too, before its program's size is known.
pub const LONGEST_PATTERN: usize = 64 * 1024;

/// Bytes that a regular expression's program may take.
pub const LARGEST_PROGRAM: usize = 1 << 20;

/// Providers of one JWT filter.
pub const MOST_PROVIDERS: usize = 64;

/// Bytes of a JSON Web Key Set, and keys in it.
pub const LONGEST_JWKS: usize = 256 * 1024;
/// See [`LONGEST_JWKS`].
pub const MOST_KEYS: usize = 100;

/// Whether a filter may write a header of this name: `host` and pseudo-headers say where a request goes (Envoy refuses them too).
pub fn may_be_written(header: &str) -> bool {
    !header.starts_with(':') && !header.eq_ignore_ascii_case("host")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_where_a_request_goes_is_not_written() {
        for (name, may) in [("x-user", true), ("Host", false), (":path", false), ("x-host", true)] {
            assert_eq!(may_be_written(name), may, "{name}");
        }
    }
}
