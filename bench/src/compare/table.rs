//! What trials found, one table for each kind of trial.

use std::fmt;

use serde::Serialize;

use super::trial::{Verdict, Verdicts};

/// Rows under the same columns.
#[derive(Debug, Serialize)]
pub(super) struct Table {
    /// Of a Markdown table, after those of the trial and the proxy
    #[serde(skip)]
    columns: &'static str,
    rows: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    trial: String,
    peer: &'static str,
    /// As it is shown
    #[serde(skip)]
    shown: String,
    /// Everything that was found
    finding: serde_json::Value,
    /// The figures mean nothing, or a proxy did not survive
    invalid: bool,
}

impl Table {
    pub(super) fn new(columns: &'static str) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// `is_invalid` says which findings mean nothing.
    pub(super) fn add<T: Serialize + fmt::Display>(
        &mut self,
        trial: &str,
        verdicts: Verdicts<T>,
        is_invalid: impl Fn(&T) -> bool,
    ) -> anyhow::Result<()> {
        for (peer, verdict) in verdicts {
            let (finding, invalid) = match &verdict {
                Verdict::Found(finding) => (serde_json::to_value(finding)?, is_invalid(finding)),
                Verdict::Unsupported(why) => (serde_json::json!({ "unsupported": why }), false),
                Verdict::Failed(why) => (serde_json::json!({ "failed": why }), true),
            };
            let trial = trial.to_owned();
            self.rows.push(Entry { trial, peer, shown: verdict.to_string(), finding, invalid });
        }
        Ok(())
    }

    /// Peers may fail: that is a finding.
    pub(super) fn is_valid(&self) -> bool {
        !self.rows.iter().any(|row| row.invalid && row.peer == "sidegate")
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n| trial | proxy | {} |", self.columns)?;
        writeln!(f, "|---|---|{}", "--:|".repeat(self.columns.split('|').count()))?;
        for Entry { trial, peer, shown, .. } in &self.rows {
            let missing = self.columns.matches('|').count().saturating_sub(shown.matches('|').count());
            writeln!(f, "| {trial} | {peer} | {shown} |{}", " – |".repeat(missing))?;
        }
        Ok(())
    }
}
