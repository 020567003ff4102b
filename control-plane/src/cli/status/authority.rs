//! What people read of the certificate authority.

use std::fmt::Write as _;

use crate::ca::ExternalReport;
use crate::ca::report::{Report, Turn};
use crate::ca::rotation::{Phase, Waiting};

/// Roots, what is in use, what ends next, and how far a rotation is.
pub(in crate::cli) fn push(text: &mut String, report: &Report) {
    let _ = writeln!(text, "\nCertificate authority of {}:", report.trust_domain);
    for (index, root) in report.roots.iter().enumerate() {
        let signs = if index == 0 { "signs" } else { "is trusted" };
        let given = if root.own { "" } else { ", given" };
        let _ = writeln!(
            text,
            "  root {} {signs}, expires in {}{given}",
            short(&root.fingerprint),
            span(root.expires_seconds)
        );
    }
    let _ = write!(text, "  {} certificates in use", report.live_leaves);
    match &report.next_expiry {
        Some(next) => {
            let _ =
                writeln!(text, "; the next to expire: {} in {}", next.identity, span(next.expires_seconds));
        }
        None => text.push('\n'),
    }
    if report.revoked_leaves + report.denied_identities > 0 {
        let (leaves, ids) = (report.revoked_leaves, report.denied_identities);
        let _ = writeln!(
            text,
            "  {leaves} certificates are revoked, {ids} identities are denied (sidegate revoke --list)"
        );
    }
    if report.rotation.phase != Phase::Stable {
        let _ = writeln!(text, "  rotating the root: {}", phase(&report.rotation));
        for waiting in &report.rotation.waiting {
            let _ = writeln!(text, "    {}", line(waiting, report.rotation.now));
        }
        for left_out in &report.rotation.without {
            let _ = writeln!(text, "    not waiting for {left_out}");
        }
        if report.rotation.more > 0 {
            let _ = writeln!(text, "    and for {} more", report.rotation.more);
        }
    }
    for problem in &report.problems {
        let _ = writeln!(text, "  problem: {problem}");
    }
}

/// Who signs elsewhere, whom everybody trusts, and how the control plane's own certificate is.
pub(super) fn push_external(text: &mut String, report: &ExternalReport) {
    let _ = writeln!(text, "\nExternal certificate authority of {}: {}", report.trust_domain, report.address);
    for (fingerprint, seconds) in &report.roots {
        let _ = writeln!(text, "  root {} is trusted, expires in {}", short(fingerprint), span(*seconds));
    }
    match report.expires_seconds {
        Some(seconds) => {
            let _ = writeln!(text, "  the control plane's own certificate expires in {}", span(seconds));
        }
        None => text.push_str("  the control plane has no certificate yet: port 15012 lets nobody in\n"),
    }
    if let Some(failure) = &report.last_failure {
        let _ = writeln!(text, "  problem: no new certificate: {failure}");
    }
    if report.denied_identities > 0 {
        let ids = report.denied_identities;
        let _ = writeln!(text, "  {ids} identities are denied (sidegate revoke --list)");
    }
    for problem in &report.problems {
        let _ = writeln!(text, "  problem: {problem}");
    }
}

/// `step 1 of 3: …, for 12 s`.
pub(in crate::cli) fn phase(turn: &Turn) -> String {
    let next = turn.next.as_deref().map_or("", short);
    let current = short(&turn.current);
    let what = match turn.phase {
        Phase::Stable => return format!("the root {current} is in force"),
        Phase::Distributing => format!("step 1 of 3: everybody is told to trust the new root {next}"),
        Phase::Signing => {
            format!("step 2 of 3: the new root {next} signs; certificates of the old one are replaced")
        }
        Phase::Retiring => format!("step 3 of 3: everybody is told to forget the old root {current}"),
    };
    format!("{what}, for {}", span(i64::try_from(turn.seconds).unwrap_or(i64::MAX)))
}

/// `waiting for sidecar shop/web-1 to trust the new root (last seen 3 s ago)`.
pub(in crate::cli) fn line(waiting: &Waiting, now: u64) -> String {
    let Waiting { who, what, last_seen, until, .. } = waiting;
    let mut text = format!("waiting for {who} {what}");
    let mut notes = Vec::new();
    if let Some(last) = last_seen {
        notes.push(format!("last seen {} ago", span(signed(now.saturating_sub(*last)))));
    }
    if let Some(until) = until {
        notes.push(format!("at most {} more", span(signed(until.saturating_sub(now)))));
    }
    if !notes.is_empty() {
        let _ = write!(text, " ({})", notes.join(", "));
    }
    text
}

/// The part of a fingerprint that people compare; the authority's files are named by it.
pub(in crate::cli) fn short(fingerprint: &str) -> &str {
    fingerprint.get(..16).unwrap_or(fingerprint)
}

fn span(seconds: i64) -> String {
    match seconds {
        ..0 => format!("{} (over since)", span(seconds.saturating_neg())),
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn signed(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
