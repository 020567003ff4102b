//! Flags and bootstrap.
