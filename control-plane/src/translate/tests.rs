//! Tables of manifests and what becomes of them.

mod fixture;

mod access;
mod backends;
mod endpoints;
mod envoy;
mod external;
mod example;
mod filters;
mod grpc;
mod https;
mod listeners;
mod matches;
mod mesh;
mod modes;
mod mutual;
mod policies;
mod property;
mod reach;
mod tokens;
