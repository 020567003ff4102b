//! Rotating.
