//! Envoy's v3 wire types in one place: the only crate that names `envoy-types`.
//!
//! Both programs import the types from here, so that another source of them is a change of one file.

pub mod bounds;
pub mod ca;
pub mod json;
pub mod path_template;
pub mod resource;
pub mod spiffe;

pub use envoy_types::pb::{envoy, google, udpa, xds};
