//! `DataSource`: where the bytes of a certificate are.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use sidegate_xds::envoy::config::core::v3 as core;

use super::secret::Secrets;
use super::{Needs, Unmade};
use crate::compile::extension;
use crate::compile::problem::{At as _, Problem};
use crate::tls::{Certificate, Shown};

/// What a context is made of, noted as it is read.
pub(super) struct Inputs<'a> {
    secrets: &'a Secrets,
    needs: RefCell<Needs>,
    shown: RefCell<Vec<Shown>>,
    /// Something is in force already.
    pub(super) replaces: bool,
}

impl<'a> Inputs<'a> {
    pub(super) fn new(secrets: &'a Secrets) -> Self {
        Self { secrets, needs: RefCell::default(), shown: RefCell::default(), replaces: false }
    }

    pub(super) fn into_parts(self) -> (Needs, Vec<Shown>) {
        (self.needs.into_inner(), self.shown.into_inner())
    }

    /// Notes a certificate that is read.
    pub(super) fn show(&self, source: &str, is_root: bool, certificate: &Certificate) {
        let shown = Shown { source: source.into(), is_root, certificate: certificate.clone() };
        self.shown.borrow_mut().push(shown);
    }

    /// A secret by name; waits for one that comes by discovery.
    pub(super) fn secret(
        &self,
        config: &super::wire::SdsSecretConfig,
    ) -> Result<&'a super::wire::Secret, Unmade> {
        let name: Arc<str> = config.name.as_str().into();
        let own = config.sds_config.as_ref().is_some_and(extension::is_own_identity);
        if own && !self.secrets.is_fixed(&name) {
            self.needs.borrow_mut().own.insert(name.clone());
        } else {
            self.needs.borrow_mut().secrets.insert(name.clone());
        }
        self.secrets.get(&name, config.sds_config.as_ref()).map_err(|unmade| match unmade {
            Unmade::Wrong(problem) => Unmade::Wrong(problem.at(format_args!("secret {name}"))),
            Unmade::Waiting => Unmade::Waiting,
        })
    }

    /// The bytes of a source; `None` when it is not set.
    pub(super) fn read(
        &self,
        source: Option<&core::DataSource>,
        field: &str,
    ) -> Result<Option<Arc<[u8]>>, Problem> {
        use core::data_source::Specifier;
        let Some(source) = source else { return Ok(None) };
        // As good as absent, an empty one would leave unverified what was to be verified.
        let Some(specifier) = &source.specifier else {
            return Err(Problem::new("says not where the bytes are").at(field));
        };
        let bytes: Arc<[u8]> = match specifier {
            Specifier::InlineBytes(bytes) => bytes.as_slice().into(),
            Specifier::InlineString(text) => text.as_bytes().into(),
            Specifier::EnvironmentVariable(name) => match std::env::var(name) {
                Ok(text) => text.into_bytes().into(),
                Err(_) => {
                    return Err(Problem::new(format!("the variable {name} is not set")).at(field));
                }
            },
            Specifier::Filename(name) => self.file(name.into()).at(field)?,
        };
        Ok(Some(bytes))
    }

    /// A file's content, which is watched from now on.
    pub(super) fn file(&self, path: PathBuf) -> Result<Arc<[u8]>, Problem> {
        let content = self.secrets.file(&path);
        let name = path.display().to_string();
        self.needs.borrow_mut().files.insert(path);
        content.map_err(|error| Problem::new(format!("cannot read {name}: {error}")))
    }
}

/// Where the bytes of a source are, for pages.
pub(super) fn place(source: Option<&core::DataSource>) -> &str {
    use core::data_source::Specifier;
    match source.and_then(|source| source.specifier.as_ref()) {
        Some(Specifier::Filename(name)) => name,
        _ => "<inline>",
    }
}
