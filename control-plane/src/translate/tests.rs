//! Tables of manifests and what becomes of them.

mod fixture;
mod example;
