//! Secrets by name, from the bootstrap or by discovery, and the files that contexts are made of.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use sidegate_xds::envoy::config::core::v3 as core;

use super::source::Inputs;
use super::{Unmade, wire};
use crate::compile::extension;
use crate::compile::problem::{At as _, Problem, fail};
use crate::identity::{DEFAULT, ROOTS};

/// Every secret, and every file that was read.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    fixed: BTreeMap<Arc<str>, wire::Secret>,
    discovered: BTreeMap<Arc<str>, wire::Secret>,
    /// What the proxy's identity room gives; `None` when the proxy has no identity of its own.
    own: Option<BTreeMap<Arc<str>, wire::Secret>>,
    files: RefCell<BTreeMap<PathBuf, Seen>>,
}

/// A file as it was read last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    mark: Option<Mark>,
    content: Option<Arc<[u8]>>,
}

/// What tells that a file is another one, or has another content, without reading it. Follows symbolic links, so that Kubernetes'
/// `..data` is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    modified: Option<SystemTime>,
    size: u64,
    node: (u64, u64, i64, i64),
}

impl Secrets {
    /// Takes a secret of the bootstrap.
    pub(crate) fn fix(&mut self, secret: wire::Secret) -> Result<(), Problem> {
        check(&secret)?;
        let name: Arc<str> = secret.name.as_str().into();
        match self.fixed.insert(name, secret) {
            None => Ok(()),
            Some(_) => fail("its name is there twice"),
        }
    }

    /// From now on the proxy has an identity of its own, which may still have to come.
    pub(crate) fn has_identity(&mut self) {
        self.own.get_or_insert_default();
    }

    /// Takes a secret that was discovered. True when it differs from the one before.
    pub(crate) fn accept(&mut self, secret: wire::Secret) -> Result<bool, Problem> {
        if secret.name == DEFAULT {
            return fail(
                "is the proxy's own certificate, which comes from nobody else: give yours another name",
            );
        }
        self.check_content(&secret, self.discovered.contains_key(&*secret.name))?;
        let name: Arc<str> = secret.name.as_str().into();
        let before = self.discovered.insert(name.clone(), secret);
        Ok(before.as_ref() != self.discovered.get(&name))
    }

    /// Takes a secret of the proxy's own identity. True when it differs from the one before.
    pub(crate) fn accept_own(&mut self, secret: wire::Secret) -> Result<bool, Problem> {
        let own = self.own.as_ref();
        self.check_content(&secret, own.is_some_and(|own| own.contains_key(&*secret.name)))?;
        let name: Arc<str> = secret.name.as_str().into();
        let own = self.own.get_or_insert_default();
        let before = own.insert(name.clone(), secret);
        Ok(before.as_ref() != own.get(&name))
    }

    /// Takes a secret of the proxy's own identity away. True when it was there.
    pub(crate) fn withdraw_own(&mut self, name: &str) -> bool {
        self.own.as_mut().is_some_and(|own| own.remove(name).is_some())
    }

    fn check_content(&self, secret: &wire::Secret, replaces: bool) -> Result<(), Problem> {
        check(secret)?;
        let mut inputs = Inputs::new(self);
        inputs.replaces = replaces;
        match &secret.r#type {
            Some(wire::secret::Type::TlsCertificate(certificate)) => {
                super::common::identity(certificate, &inputs).at("tls_certificate").map(drop)?;
            }
            Some(wire::secret::Type::ValidationContext(context)) => {
                super::validation::parts_of(context, None, &inputs).at("validation_context").map(drop)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Forgets discovered secrets that nothing is made of.
    pub(crate) fn retain(&mut self, wanted: &BTreeSet<Arc<str>>) {
        self.discovered.retain(|name, _| wanted.contains(name));
    }

    pub(super) fn is_fixed(&self, name: &str) -> bool {
        self.fixed.contains_key(name)
    }

    pub(super) fn get(
        &self,
        name: &str,
        source: Option<&core::ConfigSource>,
    ) -> Result<&wire::Secret, Unmade> {
        if let Some(secret) = self.fixed.get(name) {
            return Ok(secret);
        }
        let Some(source) = source else {
            return Err(Problem::new("static_resources.secrets has none of this name").into());
        };
        if extension::is_own_identity(source) {
            let Some(own) = &self.own else { return Err(Problem::new(crate::settings::NO_IDENTITY).into()) };
            if name != DEFAULT && name != ROOTS {
                let text = format!("sds-grpc has {DEFAULT} and {ROOTS} only: use ads for others");
                return Err(Problem::new(text).at("sds_config").into());
            }
            return own.get(name).ok_or(Unmade::Waiting);
        }
        extension::is_ads(source).at("sds_config")?;
        if name == DEFAULT {
            let text = "the proxy's own certificate never comes by ads: name the cluster sds-grpc by api_config_source";
            return Err(Problem::new(text).at("sds_config").into());
        }
        self.discovered.get(name).ok_or(Unmade::Waiting)
    }

    /// A file's content: as read before, if it was.
    pub(super) fn file(&self, path: &Path) -> io::Result<Arc<[u8]>> {
        let mut files = self.files.borrow_mut();
        if let Some(content) = files.get(path).and_then(|seen| seen.content.clone()) {
            return Ok(content);
        }
        let (seen, error) = look(path);
        let content = seen.content.clone();
        files.insert(path.to_owned(), seen);
        content.ok_or_else(|| error.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    /// Looks at these files again. Those whose content is another one now.
    pub(super) fn look_at_files(&self, paths: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
        let mut files = self.files.borrow_mut();
        let mut changed = BTreeSet::new();
        for path in paths {
            let before = files.get(path);
            if before.is_some_and(|seen| seen.mark.is_some() && seen.mark == mark(path)) {
                continue;
            }
            let (mut seen, _) = look(path);
            // A file that is gone for a moment, between two renames, is no change.
            if seen.content.is_none() {
                seen.content = before.and_then(|seen| seen.content.clone());
            }
            if before.is_none_or(|before| before.content != seen.content) {
                changed.insert(path.clone());
            }
            files.insert(path.clone(), seen);
        }
        changed
    }

    pub(super) fn forget_files(&self, wanted: &BTreeSet<PathBuf>) {
        self.files.borrow_mut().retain(|path, _| wanted.contains(path));
    }
}

fn check(secret: &wire::Secret) -> Result<(), Problem> {
    match &secret.r#type {
        Some(wire::secret::Type::TlsCertificate(_) | wire::secret::Type::ValidationContext(_)) => Ok(()),
        Some(wire::secret::Type::SessionTicketKeys(_)) => {
            fail("is not supported yet").at("session_ticket_keys")
        }
        Some(wire::secret::Type::GenericSecret(_)) => fail("is not supported yet").at("generic_secret"),
        None => fail("is empty"),
    }
}

fn look(path: &Path) -> (Seen, Option<io::Error>) {
    // Before the content: what changes in between is seen the next time.
    let mark = mark(path);
    match read(path) {
        Ok(content) => (Seen { mark, content: Some(content.into()) }, None),
        Err(error) => (Seen { mark: None, content: None }, Some(error)),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("it is longer than {LARGEST} bytes")));
    }
    Ok(content)
}

#[cfg(unix)]
fn mark(path: &Path) -> Option<Mark> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    let node = (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
    Some(Mark { modified: metadata.modified().ok(), size: metadata.len(), node })
}

/// The longest file: a system's bundle of roots is a quarter of it.
const LARGEST: u64 = 1 << 20;
