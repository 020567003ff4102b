//! How many files the process may open: every caller is one, and the lists that say who may call are others.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit as far as the system lets us; says how many they are.
pub(super) fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    if let Err(error) = &raised {
        tracing::warn!(%error, ?current, "the number of open files cannot be raised");
    }
    let files = if raised.is_ok() { maximum } else { current };
    // No limit is none of ours either, but the kernel's table has one.
    usize::try_from(files.unwrap_or(1 << 20)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn h3_as_many_files_as_the_system_lets_us() {
        let files = raise_limit();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        assert_eq!(current.unwrap_or(1 << 20), files as u64);
    }
}
