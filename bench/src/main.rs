//! Side-by-side measurements: `compare` starts an origin and the proxies, sends the same work through each in turns, and
//! prints what a request cost. `bench/README.md` says how to read it.

mod attack;
mod certificates;
mod compare;
mod hold;
mod lane;
mod load;
mod origin;
mod upload;
mod workload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

fn main() -> ExitCode {
    let ended = match Arguments::parse().command {
        Command::Origin(order) => origin::run(&order).map(|()| ExitCode::SUCCESS),
        Command::Load(order) => load::run(&order).map(|()| ExitCode::SUCCESS),
        Command::Hold(order) => hold::run(&order).map(|()| ExitCode::SUCCESS),
        Command::Upload(order) => upload::run(&order).map(|()| ExitCode::SUCCESS),
        Command::Attack(order) => attack::run(&order).map(|()| ExitCode::SUCCESS),
        Command::Compare(arguments) => compare::run(&arguments),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("sidegate-bench: {error:#}");
        ExitCode::from(2)
    })
}

#[derive(Parser)]
#[command(name = "sidegate-bench", about = "Measure proxies side by side")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer HTTP/1.1, HTTP/2 and TCP on free ports; prints where, and for each line on standard input how many it answered
    Origin(origin::Order),
    /// Send one workload to one address and print what came of it
    Load(load::Order),
    /// Open many connections that ask once and stay until standard input ends
    Hold(hold::Order),
    /// Send large bodies to an origin that reads slowly
    Upload(upload::Order),
    /// Attack one address with frames of HTTP/2 and print where it was cut
    Attack(attack::Order),
    /// Measure every proxy on every workload (`cargo xtask bench` builds and finds them)
    Compare(compare::Arguments),
}
