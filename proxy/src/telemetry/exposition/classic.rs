//! OpenMetrics → Prometheus' text form 0.0.4, for scrapers that do not ask for the former.

/// Appends the page in the older form.
pub(super) fn convert(page: &str, out: &mut String) {
    out.reserve(page.len());
    // HELP comes before TYPE, and its name depends on the type.
    let mut help = "";
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { continue };
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                // Envoy's counters, whose names have no suffix.
                "unknown" => ("", "counter"),
                "info" => ("_info", "gauge"),
                other => ("", other),
            };
            let help = help.split_once(' ').map_or("", |(_, text)| text);
            push(out, &["# HELP ", name, suffix, " ", help, "\n"]);
            push(out, &["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if let Some((name, bound, rest)) = bucket(line) {
            // Whole bounds without a fraction, as Envoy writes them.
            push(out, &[name, "_bucket{le=\"", bound.strip_suffix(".0").unwrap_or(bound), "\"", rest, "\n"]);
        } else if !line.starts_with('#') {
            push(out, &[line, "\n"]);
        }
    }
}

/// A bucket's name, bound and what follows.
fn bucket(line: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = line.split_once("_bucket{le=\"")?;
    let (bound, rest) = rest.split_once('"')?;
    Some((name, bound, rest))
}

fn push(out: &mut String, pieces: &[&str]) {
    out.extend(pieces.iter().copied());
}
