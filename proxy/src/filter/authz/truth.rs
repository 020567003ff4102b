//! What a rule says of a request: yes, no, or that the request can be read in more than one way.
//!
//! A request that cannot be judged must not slip past a DENY, nor into an ALLOW, also when the rule stands under a `not`. Two values
//! cannot say that; three can (Kleene's logic).

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truth {
    /// It does not hold, however the request is read.
    No,
    /// It holds, however the request is read.
    Yes,
    /// It holds by one reading and not by another, or nobody can tell.
    Unclear,
}

impl Truth {
    /// What is certain.
    pub(crate) const fn of(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    /// The opposite; what is unclear stays so.
    pub(crate) const fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Yes => Self::No,
            Self::Unclear => Self::Unclear,
        }
    }

    /// The opposite, if asked for.
    pub(crate) const fn not_if(self, invert: bool) -> Self {
        if invert { self.not() } else { self }
    }

    /// All of them: one that does not hold settles it.
    pub(crate) fn all(of: impl IntoIterator<Item = Self>) -> Self {
        let mut sum = Self::Yes;
        for truth in of {
            match truth {
                Self::No => return Self::No,
                Self::Unclear => sum = Self::Unclear,
                Self::Yes => {}
            }
        }
        sum
    }

    /// One of them at least: one that holds settles it.
    pub(crate) fn any(of: impl IntoIterator<Item = Self>) -> Self {
        let mut sum = Self::No;
        for truth in of {
            match truth {
                Self::Yes => return Self::Yes,
                Self::Unclear => sum = Self::Unclear,
                Self::No => {}
            }
        }
        sum
    }

    /// What different readings of one thing say together: certain only when they agree. Of no reading nothing is known.
    pub(crate) fn agreed(readings: impl IntoIterator<Item = Self>) -> Self {
        let mut readings = readings.into_iter();
        let Some(first) = readings.next() else { return Self::Unclear };
        if readings.all(|other| other == first) { first } else { Self::Unclear }
    }
}

#[cfg(test)]
mod tests {
    use super::Truth::{self, No, Unclear, Yes};

    #[test]
    fn what_is_unclear_stays_so_until_something_else_settles_it() {
        assert_eq!([No, Yes, Unclear].map(Truth::not), [Yes, No, Unclear]);
        for (list, all, any) in [
            (&[][..], Yes, No),
            (&[Yes, Unclear], Unclear, Yes),
            (&[Unclear, No], No, Unclear),
            (&[No, Unclear, Yes], No, Yes),
            (&[Unclear], Unclear, Unclear),
        ] {
            assert_eq!((Truth::all(list.iter().copied()), Truth::any(list.iter().copied())), (all, any));
        }
        assert_eq!(Truth::agreed([Yes, Yes]), Yes);
        assert_eq!(Truth::agreed([No, Yes]), Unclear);
        assert_eq!(Truth::agreed([]), Unclear);
    }
}
