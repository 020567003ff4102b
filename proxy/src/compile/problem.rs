//! What is wrong with a resource and where: a message that gathers its field path on the way up.

use std::fmt;

/// Why a resource was refused: a text with the path of the field in front.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    path: String,
    message: String,
}

impl Problem {
    /// A problem right here.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { path: String::new(), message: message.into() }
    }

    /// The same problem, seen from one field further out.
    pub(crate) fn at(mut self, place: impl fmt::Display) -> Self {
        self.path = if self.path.is_empty() { place.to_string() } else { format!("{place}.{}", self.path) };
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => formatter.write_str(&self.message),
            path => write!(formatter, "{path}: {}", self.message),
        }
    }
}

/// Adds a field to the path of a result's problem.
pub(crate) trait At<T> {
    /// Names the field that the result came from; the text is only made when there is a problem.
    fn at(self, place: impl fmt::Display) -> Result<T, Problem>;
}

impl<T> At<T> for Result<T, Problem> {
    fn at(self, place: impl fmt::Display) -> Result<T, Problem> {
        self.map_err(|problem| problem.at(place))
    }
}

/// Shorthand for `Err(Problem::new(..))`.
pub(crate) fn fail<T>(message: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::new(message))
}

/// Refuses what would change the meaning of the configuration if it were left out: the first field of the list that is set.
pub(crate) fn unsupported(fields: &[(&str, bool)]) -> Result<(), Problem> {
    match fields.iter().find(|(_, set)| *set) {
        None => Ok(()),
        Some((field, _)) => Err(Problem::new("is not supported yet").at(field)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_grow_outwards() {
        let inner: Result<(), Problem> = fail("must be at least 1").at("weight");
        let outer = inner.at(format_args!("clusters[{}]", 2)).at("route");
        assert_eq!(outer.unwrap_err().to_string(), "route.clusters[2].weight: must be at least 1");
        assert_eq!(
            unsupported(&[("a", false), ("b", true)]).unwrap_err().to_string(),
            "b: is not supported yet"
        );
    }
}
