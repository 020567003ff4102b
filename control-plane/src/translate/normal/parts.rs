//! The parts that HTTPRoute and GRPCRoute share, and the macros that read them from the published types, whose fields have
//! the same names and whose types have not.

/// What a backendRef or a mirror points at, with the defaults of group and kind filled in.
#[derive(Clone, Copy, Debug)]
pub(in crate::translate) struct Reference<'a> {
    pub(in crate::translate) group: &'a str,
    pub(in crate::translate) kind: &'a str,
    pub(in crate::translate) namespace: Option<&'a str>,
    pub(in crate::translate) name: &'a str,
    pub(in crate::translate) port: Option<i32>,
}

/// A weighted backendRef.
#[derive(Debug)]
pub(in crate::translate) struct Backend<'a> {
    pub(in crate::translate) reference: Reference<'a>,
    pub(in crate::translate) weight: i32,
    pub(in crate::translate) filters: Vec<Filter<'a>>,
}

/// A filter of a rule or of a backendRef.
#[derive(Debug)]
pub(in crate::translate) enum Filter<'a> {
    RequestHeaders(HeaderOps<'a>),
    ResponseHeaders(HeaderOps<'a>),
    Mirror(Mirror<'a>),
    Redirect(Redirect<'a>),
    Rewrite(Rewrite<'a>),
    /// One that is not supported, or that lacks its settings; the name of its type.
    Unsupported(&'static str),
}

/// Changes to headers.
#[derive(Debug, Default)]
pub(in crate::translate) struct HeaderOps<'a> {
    pub(in crate::translate) set: Vec<(&'a str, &'a str)>,
    pub(in crate::translate) add: Vec<(&'a str, &'a str)>,
    pub(in crate::translate) remove: Vec<&'a str>,
}

/// A copy of a share of the requests.
#[derive(Debug)]
pub(in crate::translate) struct Mirror<'a> {
    pub(in crate::translate) reference: Reference<'a>,
    pub(in crate::translate) percent: Option<i32>,
    /// Numerator and denominator.
    pub(in crate::translate) fraction: Option<(i32, i32)>,
}

/// A redirect.
#[derive(Debug)]
pub(in crate::translate) struct Redirect<'a> {
    pub(in crate::translate) scheme: Option<&'static str>,
    pub(in crate::translate) hostname: Option<&'a str>,
    pub(in crate::translate) port: Option<i32>,
    pub(in crate::translate) path: Option<RewritePath<'a>>,
    pub(in crate::translate) status: i64,
}

/// A rewrite on the way to the backend.
#[derive(Debug)]
pub(in crate::translate) struct Rewrite<'a> {
    pub(in crate::translate) hostname: Option<&'a str>,
    pub(in crate::translate) path: Option<RewritePath<'a>>,
}

/// How a path is replaced.
#[derive(Clone, Copy, Debug)]
pub(in crate::translate) enum RewritePath<'a> {
    Full(&'a str),
    Prefix(&'a str),
}

/// The `parentRefs` of a route.
macro_rules! parents {
    ($references:expr, $namespace:expr) => {
        $references
            .iter()
            .flatten()
            .map(|reference| Parent {
                group: reference.group.as_deref().unwrap_or(GATEWAY_GROUP),
                kind: reference.kind.as_deref().unwrap_or("Gateway"),
                name: Name::new(
                    reference.namespace.as_deref().unwrap_or($namespace),
                    reference.name.as_str(),
                ),
                section: reference.section_name.as_deref(),
                port: reference.port,
            })
            .collect()
    };
}

/// A reference to a backend.
macro_rules! reference {
    ($reference:expr) => {
        Reference {
            group: $reference.group.as_deref().unwrap_or(""),
            kind: $reference.kind.as_deref().unwrap_or("Service"),
            namespace: $reference.namespace.as_deref(),
            name: &$reference.name,
            port: $reference.port,
        }
    };
}

/// The backendRefs of a rule; `$filter` reads one of their filters.
macro_rules! backends {
    ($references:expr, $filter:expr) => {
        $references
            .iter()
            .flatten()
            .map(|backend| Backend {
                reference: reference!(backend),
                weight: backend.weight.unwrap_or(1),
                filters: backend.filters.iter().flatten().map($filter).collect(),
            })
            .collect()
    };
}

/// Changes to headers, in `$variant` of [`Filter`].
macro_rules! headers {
    ($modifier:expr, $variant:ident) => {
        $modifier.as_ref().map(|modifier| {
            Filter::$variant(HeaderOps {
                set: modifier.set.iter().flatten().map(|header| (&*header.name, &*header.value)).collect(),
                add: modifier.add.iter().flatten().map(|header| (&*header.name, &*header.value)).collect(),
                remove: modifier.remove.iter().flatten().map(String::as_str).collect(),
            })
        })
    };
}

/// A mirror.
macro_rules! mirror {
    ($mirror:expr) => {
        $mirror.as_ref().map(|mirror| {
            Filter::Mirror(Mirror {
                reference: reference!(mirror.backend_ref),
                percent: mirror.percent,
                fraction: mirror
                    .fraction
                    .as_ref()
                    .map(|fraction| (fraction.numerator, fraction.denominator.unwrap_or(100))),
            })
        })
    };
}

pub(super) use {backends, headers, mirror, parents, reference};
