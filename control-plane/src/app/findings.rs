//! Findings in the log: each once when it appears, and once when it is mended.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use crate::model::{Finding, View};

/// Logs until the views end.
pub(super) async fn log(mut views: watch::Receiver<Arc<View>>) {
    let mut known = BTreeSet::new();
    loop {
        let view = Arc::clone(&views.borrow_and_update());
        let current: BTreeSet<Finding> = view.findings.iter().cloned().collect();
        for finding in current.difference(&known) {
            tracing::warn!("{} (in force: {})", describe(finding), finding.in_force);
        }
        for finding in known.difference(&current) {
            tracing::info!("mended: {}", describe(finding));
        }
        known = current;
        if views.changed().await.is_err() {
            return;
        }
    }
}

/// `shop/web.yaml, document 2, HTTPRoute shop/web, spec.rules[0]: what is wrong`.
fn describe(finding: &Finding) -> String {
    let place = format!("{}, document {}", finding.file, finding.document);
    let parts = [Some(place), finding.object.clone(), finding.field.clone()];
    format!("{}: {}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "), finding.message)
}
