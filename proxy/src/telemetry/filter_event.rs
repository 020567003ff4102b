//! What filters that decide about requests are counted by.

/// Something that a filter did with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilterEvent {
    /// `jwt_authn` let a request go on.
    JwtAllowed,
    /// `jwt_authn` refused a request.
    JwtDenied,
    /// `jwt_authn` did not look at a CORS preflight.
    JwtPreflight,
    /// A token's signature need not be checked again.
    JwtCacheHit,
    /// A token's signature was checked.
    JwtCacheMiss,
    /// Keys were fetched.
    JwksFetched,
    /// Keys could not be fetched.
    JwksFailed,
    /// The authorization service said yes.
    AuthorizationOk,
    /// It said no.
    AuthorizationDenied,
    /// It could not be asked.
    AuthorizationError,
    /// The same, and that is configured to count as yes.
    AuthorizationWaived,
    /// It was not asked, as configured.
    AuthorizationDisabled,
}

impl FilterEvent {
    /// Every event, in declaration order.
    pub(crate) const ALL: [Self; 12] = [
        Self::JwtAllowed,
        Self::JwtDenied,
        Self::JwtPreflight,
        Self::JwtCacheHit,
        Self::JwtCacheMiss,
        Self::JwksFetched,
        Self::JwksFailed,
        Self::AuthorizationOk,
        Self::AuthorizationDenied,
        Self::AuthorizationError,
        Self::AuthorizationWaived,
        Self::AuthorizationDisabled,
    ];
}
