//! The recipes of this repository. People and CI run the same ones: `cargo xtask check`, `cargo xtask test`.
//!
//! Each recipe is one file; this one reads the flags and says how it ended.

mod bench;
mod check;
mod deny;
mod descriptors;
mod fuzz;
mod house;
mod mutants;
mod peers;
mod soak;
mod stage;
mod test;
mod tool;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

fn main() -> ExitCode {
    match run(Arguments::parse().recipe) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(recipe: Recipe) -> anyhow::Result<()> {
    match recipe {
        Recipe::Check => check::run(),
        Recipe::House => house::run(),
        Recipe::Deny => deny::run(),
        Recipe::Test { filter } => test::run(filter.as_deref()),
        Recipe::Bench(arguments) => bench::run(&arguments),
        Recipe::Fuzz(arguments) => fuzz::run(&arguments),
        Recipe::Mutants(arguments) => mutants::run(&arguments),
        Recipe::Soak(arguments) => soak::run(&arguments),
        Recipe::Descriptors => descriptors::run(),
    }
}

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Sidegate's recipes; CI runs the same ones")]
struct Arguments {
    #[command(subcommand)]
    recipe: Recipe,
}

#[derive(Subcommand)]
enum Recipe {
    /// Format, the house law, bans and licences, clippy without warnings
    Check,
    /// Only the house law: import order, budgets, which crate may stand in which room
    House,
    /// Only bans, licences and sources of the dependencies (deny.toml)
    Deny,
    /// Build and test the workspace, real Envoy included
    Test {
        /// Run only tests whose name contains this
        filter: Option<String>,
    },
    /// Measure Sidegate beside Envoy, HAProxy and nginx (bench/README.md)
    Bench(bench::Arguments),
    /// Fuzz one target for a while
    Fuzz(fuzz::Arguments),
    /// Change what must not be wrong in small ways and see that its tests notice each (docs/mutants.md)
    Mutants(mutants::Arguments),
    /// Drive a mixed load with faults for a while, and see that nothing is lost or left
    Soak(soak::Arguments),
    /// Write xds-proto/descriptors anew after an update of envoy-types
    Descriptors,
}
