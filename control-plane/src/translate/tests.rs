//! Tables of manifests and what becomes of them.

mod fixture;

mod access;
mod backends;
mod endpoints;
mod example;
mod filters;
mod grpc;
mod listeners;
mod matches;
mod mesh;
mod policies;
mod property;
