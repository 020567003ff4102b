//! The delta state against scenarios, and against a model of a client under random histories.

mod model;
mod random;
mod scenarios;
