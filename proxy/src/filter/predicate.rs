//! Tests that rooms above have made: routes and their matchers stand above filters, so that a filter holds a closure.

use std::fmt;

/// A test of a `T`.
pub(crate) struct Predicate<T: ?Sized>(Box<dyn Fn(&T) -> bool + Send + Sync>);

impl<T: ?Sized> Predicate<T> {
    /// By a closure.
    pub(crate) fn new(test: impl Fn(&T) -> bool + Send + Sync + 'static) -> Self {
        Self(Box::new(test))
    }

    /// Whether the test holds.
    pub(crate) fn holds(&self, value: &T) -> bool {
        (self.0)(value)
    }
}

impl<T: ?Sized> fmt::Debug for Predicate<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Predicate")
    }
}
