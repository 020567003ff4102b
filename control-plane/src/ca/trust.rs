//! Whom workloads trust: our roots, the user's bundles of other trust domains, revocation lists and the deny list.
//!
//! All but our roots are files that people change while we run. A file that cannot be read keeps its last good form in force and is
//! told as a problem; when there is no last good form, the authority does not open: a deny list that is ignored lets somebody in.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use sidegate_xds::spiffe::SpiffeId;

use super::certificate::Facts;
use super::directory::read_text;
use super::error::CaError;
use super::pem;
use crate::model::Trust;

/// What the files say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Extra {
    /// PEM certificates by trust domain.
    bundles: BTreeMap<String, Vec<String>>,
    revocation: Vec<String>,
    pub(super) denied: Vec<String>,
}

/// The files, and what they said when they were last good.
#[derive(Debug)]
pub(super) struct Files {
    bundles: Vec<(String, PathBuf)>,
    revocation: PathBuf,
    denied: PathBuf,
    /// Of each file the last good form.
    good: BTreeMap<PathBuf, Vec<String>>,
    /// What would hold less than before, until it is seen a second time: the file may be in the middle of being written.
    doubtful: BTreeMap<PathBuf, Vec<String>>,
}

impl Files {
    pub(super) fn new(directory: &Path, bundles: Vec<(String, PathBuf)>) -> Self {
        let (revocation, denied) = (directory.join(REVOCATION), directory.join(DENIED));
        Self { bundles, revocation, denied, good: BTreeMap::new(), doubtful: BTreeMap::new() }
    }

    /// Reads every file; gives what holds now and what is wrong.
    pub(super) fn read(&mut self) -> (Extra, Vec<CaError>) {
        let (mut extra, mut problems) = (Extra::default(), Vec::new());
        for (domain, path) in self.bundles.clone() {
            let roots = self.take(&path, true, bundle, &mut problems);
            extra.bundles.entry(domain).or_default().extend(roots);
        }
        extra.revocation = self.take(&self.revocation.clone(), false, revocation, &mut problems);
        extra.denied = self.take(&self.denied.clone(), false, denied, &mut problems);
        (extra, problems)
    }

    fn take(
        &mut self,
        path: &Path,
        required: bool,
        read: fn(&str) -> Result<Vec<String>, String>,
        problems: &mut Vec<CaError>,
    ) -> Vec<String> {
        let read = match read_text(path) {
            Ok(text) => read(&text).map_err(|what| CaError::content(path, what)),
            Err(CaError::File { reason, .. }) if !required && reason.kind() == io::ErrorKind::NotFound => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        };
        match read {
            Ok(items) if !required => self.settle(path, items),
            Ok(items) => {
                self.good.insert(path.to_owned(), items.clone());
                items
            }
            Err(error) => {
                problems.push(error);
                self.good.get(path).cloned().unwrap_or_default()
            }
        }
    }
}

impl Files {
    /// What is added to a list holds at once; what is taken from it, when the list says so twice.
    fn settle(&mut self, path: &Path, items: Vec<String>) -> Vec<String> {
        let good = self.good.get(path).cloned().unwrap_or_default();
        let mut all = items.clone();
        all.extend(good.into_iter().filter(|item| !items.contains(item)));
        if all.len() > items.len() && self.doubtful.get(path) != Some(&items) {
            self.doubtful.insert(path.to_owned(), items);
        } else {
            self.doubtful.remove(path);
            all = items;
        }
        self.good.insert(path.to_owned(), all.clone());
        all
    }
}

/// Everything together. `roots` are ours, as PEM, the one that signs first.
pub(super) fn assemble(trust_domain: &str, roots: Vec<String>, extra: &Extra) -> Trust {
    let mut bundles = extra.bundles.clone();
    let mut own = roots;
    for more in bundles.remove(trust_domain).unwrap_or_default() {
        if !own.contains(&more) {
            own.push(more);
        }
    }
    bundles.insert(trust_domain.to_owned(), own);
    let (revocation, denied) = (extra.revocation.clone(), extra.denied.clone());
    Trust { trust_domain: trust_domain.to_owned(), bundles, revocation, denied }
}

/// Roots in PEM form, or a SPIFFE bundle (a JWK set, SPIFFE Trust Domain and Bundle §4).
fn bundle(text: &str) -> Result<Vec<String>, String> {
    let ders = if text.trim_start().starts_with('{') {
        jwk_set(text)?
    } else {
        pem::certificates(text)?.iter().map(|der| der.to_vec()).collect()
    };
    if ders.is_empty() {
        return Err("there is no root certificate in it (PEM, or a SPIFFE bundle in JSON)".to_owned());
    }
    if ders.len() > ROOT_LIMIT {
        return Err(format!("it has {} roots; at most {ROOT_LIMIT} are read", ders.len()));
    }
    let mut roots = Vec::new();
    for der in ders {
        let facts = Facts::read(&der.as_slice().into())?;
        if !facts.is_authority() {
            return Err(
                "it holds a certificate that is not a certificate authority's: only roots belong into it"
                    .to_owned(),
            );
        }
        let root = pem::certificate(&der);
        if !roots.contains(&root) {
            roots.push(root);
        }
    }
    Ok(roots)
}

fn jwk_set(text: &str) -> Result<Vec<Vec<u8>>, String> {
    #[derive(serde::Deserialize)]
    struct Set {
        keys: Vec<Key>,
    }
    #[derive(serde::Deserialize)]
    struct Key {
        #[serde(default, rename = "use")]
        purpose: String,
        #[serde(default)]
        x5c: Vec<String>,
    }
    let set: Set = serde_json::from_str(text).map_err(|error| format!("not a SPIFFE bundle: {error}"))?;
    // Keys for other purposes (`jwt-svid`) stand beside those for certificates.
    let keys = set.keys.into_iter().filter(|key| key.purpose == "x509-svid");
    keys.map(|key| match key.x5c.as_slice() {
        [one] => STANDARD
            .decode(one)
            .map_err(|error| format!("an x5c of the SPIFFE bundle is not base64: {error}")),
        _ => Err("a key of the SPIFFE bundle must have exactly one certificate in x5c".to_owned()),
    })
    .collect()
}

fn revocation(text: &str) -> Result<Vec<String>, String> {
    let lists: Vec<CertificateRevocationListDer<'_>> =
        CertificateRevocationListDer::pem_slice_iter(text.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("not readable as PEM: {error}"))?;
    if lists.is_empty() && !text.trim().is_empty() {
        return Err("there is no X509 CRL section in it".to_owned());
    }
    for list in &lists {
        webpki::BorrowedCertRevocationList::from_der(list)
            .map_err(|error| format!("a revocation list in it cannot be used: {error}"))?;
    }
    // As the user wrote them: whoever reads them splits sections by itself.
    Ok(if lists.is_empty() { Vec::new() } else { vec![text.to_owned()] })
}

pub(super) fn denied(text: &str) -> Result<Vec<String>, String> {
    let mut ids = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let id: SpiffeId = line.parse().map_err(|error| format!("line {}: {line:?}: {error}", index + 1))?;
        if !ids.iter().any(|known| known == id.as_str()) {
            ids.push(id.as_str().to_owned());
        }
    }
    // Whoever stood past the bound would be sent to no proxy, and be let in without a word.
    if ids.len() > MOST_DENIED {
        return Err(format!("it names {} ids, more than the {MOST_DENIED} that a proxy takes", ids.len()));
    }
    Ok(ids)
}

/// Revocation lists that the user makes with the tools of their PKI.
const REVOCATION: &str = "crl.pem";

/// Ids that nobody accepts, one a line.
pub(super) const DENIED: &str = "denied";

/// How many ids a proxy takes (ADR 12).
pub(super) const MOST_DENIED: usize = 10_000;

/// How many roots one file may have.
const ROOT_LIMIT: usize = 64;

#[cfg(test)]
mod tests;
