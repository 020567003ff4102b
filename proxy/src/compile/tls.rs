//! `DownstreamTlsContext` and `UpstreamTlsContext` → contexts in the `tls` room, made anew in place when what they are made of changes.
//!
//! A context is known by its owner and its bytes: the same configuration pushed again keeps its context, with it the sessions that may
//! be resumed and the pooled connections.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use sidegate_xds::envoy::config::core::v3 as core;
use sidegate_xds::envoy::extensions::transport_sockets::tls::v3 as wire;
use sidegate_xds::google::protobuf::Any;
use sidegate_xds::resource::from_any;

use super::extension;
use super::problem::{At, Problem, fail};
use crate::tls::{Certificates, ClientContext, Denied, Identity, ServerContext, Shown};

mod common;
mod downstream;
mod secret;
mod source;
mod spiffe;
mod upstream;
mod validation;

pub(crate) use secret::Secrets;
pub(crate) use upstream::Wishes;

use source::Inputs;

/// Every context that is in use, and the secrets they are made of.
#[derive(Debug, Default)]
pub(crate) struct Contexts {
    secrets: Secrets,
    certificates: Certificates,
    /// Secrets that are wanted for more than contexts.
    always: BTreeSet<Arc<str>>,
    servers: Vec<Slot<wire::DownstreamTlsContext, ServerContext, Denied>>,
    clients: Vec<Slot<wire::UpstreamTlsContext, ClientContext, Wishes>>,
}

/// A context with what it was made of.
#[derive(Debug)]
struct Slot<W, C, E> {
    /// Whose it is, for messages: `listener web`, `cluster app`.
    owner: Arc<str>,
    wire: W,
    extra: E,
    context: Weak<C>,
    needs: Needs,
    /// The certificates in it.
    shown: Vec<Shown>,
    /// The last problem, so that it is told once.
    problem: Option<String>,
}

/// What a context is made of, besides its own configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Needs {
    /// Secrets by name.
    secrets: BTreeSet<Arc<str>>,
    /// Secrets of the proxy's own identity.
    own: BTreeSet<Arc<str>>,
    /// Files.
    files: BTreeSet<PathBuf>,
}

/// Why a context could not be made.
#[derive(Debug)]
enum Unmade {
    /// A secret has not arrived yet.
    Waiting,
    /// It is wrong.
    Wrong(Problem),
}

impl From<Problem> for Unmade {
    fn from(problem: Problem) -> Self {
        Self::Wrong(problem)
    }
}

/// A context's kind: how its configuration becomes what is in force.
trait Make<E> {
    type Context: Default;
    fn make(&self, extra: &E, inputs: &mut Inputs<'_>, into: &Self::Context) -> Result<(), Unmade>;
    fn is_ready(context: &Self::Context) -> bool;
    fn withdraw(context: &Self::Context);
}

impl Contexts {
    /// The secrets.
    pub(crate) fn secrets(&mut self) -> &mut Secrets {
        &mut self.secrets
    }

    /// From now on the secret is wanted whether a context is made of it or not.
    pub(crate) fn always_want(&mut self, secret: &str) {
        self.always.insert(secret.into());
    }

    /// The context for a listener's transport socket; `None` for plaintext. Clients with a denied id are not accepted.
    pub(crate) fn server(
        &mut self,
        owner: &str,
        socket: Option<&core::TransportSocket>,
        denied: &Denied,
    ) -> Result<Option<(Arc<ServerContext>, wire::DownstreamTlsContext)>, Problem> {
        let Some(any) = secured(socket)? else { return Ok(None) };
        let wire: wire::DownstreamTlsContext = decode(any)?;
        let context = get(&mut self.servers, &self.secrets, owner, &wire, denied.clone())?;
        Ok(Some((context, wire)))
    }

    /// The context for a cluster's transport socket; `None` for plaintext.
    pub(crate) fn client(
        &mut self,
        owner: &str,
        socket: Option<&core::TransportSocket>,
        wishes: Wishes,
    ) -> Result<Option<(Arc<ClientContext>, wire::UpstreamTlsContext)>, Problem> {
        let Some(any) = secured(socket)? else { return Ok(None) };
        let wire: wire::UpstreamTlsContext = decode(any)?;
        let context = get(&mut self.clients, &self.secrets, owner, &wire, wishes)?;
        Ok(Some((context, wire)))
    }

    /// Takes a secret that was discovered, and makes anew what is made of it.
    ///
    /// # Errors
    /// When it could not be used; the one before stays.
    pub(crate) fn accept_secret(&mut self, secret: wire::Secret) -> Result<(), Problem> {
        let name = secret.name.clone();
        if self.secrets.accept(secret)? {
            let concerned = |needs: &Needs| needs.secrets.contains(&*name);
            remake(&mut self.servers, &self.secrets, concerned);
            remake(&mut self.clients, &self.secrets, concerned);
            self.show();
        }
        Ok(())
    }

    /// Takes a secret of the proxy's own identity, and makes anew what is made of it.
    ///
    /// # Errors
    /// When it could not be used; the one before stays.
    pub(crate) fn accept_own(&mut self, secret: wire::Secret) -> Result<(), Problem> {
        let name = secret.name.clone();
        if self.secrets.accept_own(secret)? {
            let concerned = |needs: &Needs| needs.own.contains(&*name);
            remake(&mut self.servers, &self.secrets, concerned);
            remake(&mut self.clients, &self.secrets, concerned);
            self.show();
        }
        Ok(())
    }

    /// A secret of the proxy's own identity is no good any more: what is made of it makes no handshake until there is another.
    pub(crate) fn withdraw_own(&mut self, name: &str) {
        if self.secrets.withdraw_own(name) {
            withdraw(&mut self.servers, name);
            withdraw(&mut self.clients, name);
            self.show();
        }
    }

    /// The certificates that contexts in use are made of, each once.
    pub(crate) fn certificates(&self) -> Certificates {
        self.certificates.clone()
    }

    /// Looks at the files again: makes anew what is made of those that have changed.
    pub(crate) fn look_at_files(&mut self) {
        let files = self.files();
        let changed = self.secrets.look_at_files(&files);
        if changed.is_empty() {
            return;
        }
        let concerned = |needs: &Needs| needs.files.iter().any(|file| changed.contains(file));
        remake(&mut self.servers, &self.secrets, concerned);
        remake(&mut self.clients, &self.secrets, concerned);
        self.show();
    }

    /// Names of the secrets that contexts in use are made of, those of the bootstrap left out.
    pub(crate) fn wanted(&self) -> BTreeSet<Arc<str>> {
        let servers =
            self.servers.iter().filter(|slot| slot.context.strong_count() > 0).map(|slot| &slot.needs);
        let clients =
            self.clients.iter().filter(|slot| slot.context.strong_count() > 0).map(|slot| &slot.needs);
        let names =
            servers.chain(clients).flat_map(|needs| needs.secrets.iter()).chain(&self.always).cloned();
        names.filter(|name| !self.secrets.is_fixed(name)).collect()
    }

    /// Forgets contexts that nothing uses.
    pub(crate) fn forget_unused(&mut self) {
        self.servers.retain(|slot| slot.context.strong_count() > 0);
        self.clients.retain(|slot| slot.context.strong_count() > 0);
        self.show();
        let files = self.files();
        self.secrets.forget_files(&files);
        let wanted = self.wanted();
        self.secrets.retain(&wanted);
    }

    fn show(&self) {
        let servers = self.servers.iter().flat_map(|slot| &slot.shown);
        let mut all: Vec<Shown> = Vec::new();
        for shown in servers.chain(self.clients.iter().flat_map(|slot| &slot.shown)) {
            if all.len() < SHOWN && !all.contains(shown) {
                all.push(shown.clone());
            }
        }
        self.certificates.write(all);
    }

    fn files(&self) -> BTreeSet<PathBuf> {
        let servers = self.servers.iter().map(|slot| &slot.needs);
        let needs = servers.chain(self.clients.iter().map(|slot| &slot.needs));
        needs.flat_map(|needs| needs.files.iter().cloned()).collect()
    }
}

/// The context for a configuration: the one there is, or a new one.
fn get<W, C, E>(
    slots: &mut Vec<Slot<W, C, E>>,
    secrets: &Secrets,
    owner: &str,
    wire: &W,
    extra: E,
) -> Result<Arc<C>, Problem>
where
    W: Make<E, Context = C> + PartialEq + Clone,
    E: PartialEq,
    C: Default,
{
    slots.retain(|slot| slot.context.strong_count() > 0);
    let same = |slot: &&Slot<W, C, E>| *slot.owner == *owner && slot.wire == *wire && slot.extra == extra;
    if let Some(known) = slots.iter().find(same).and_then(|slot| slot.context.upgrade()) {
        return Ok(known);
    }
    let context = Arc::new(C::default());
    let mut inputs = Inputs::new(secrets);
    match wire.make(&extra, &mut inputs, &context) {
        Ok(()) | Err(Unmade::Waiting) => {}
        Err(Unmade::Wrong(problem)) => return Err(problem),
    }
    let (needs, shown) = inputs.into_parts();
    slots.push(Slot {
        owner: owner.into(),
        wire: wire.clone(),
        extra,
        context: Arc::downgrade(&context),
        needs,
        shown,
        problem: None,
    });
    Ok(context)
}

fn remake<W, C, E>(slots: &mut [Slot<W, C, E>], secrets: &Secrets, concerned: impl Fn(&Needs) -> bool)
where
    W: Make<E, Context = C>,
{
    for slot in slots.iter_mut().filter(|slot| concerned(&slot.needs)) {
        let Some(context) = slot.context.upgrade() else { continue };
        let mut inputs = Inputs::new(secrets);
        inputs.replaces = W::is_ready(&context);
        let made = slot.wire.make(&slot.extra, &mut inputs, &context);
        let (needs, shown) = inputs.into_parts();
        if made.is_err() {
            // It may have failed before it came to the rest, which must not be forgotten meanwhile.
            slot.needs.secrets.extend(needs.secrets);
            slot.needs.own.extend(needs.own);
            slot.needs.files.extend(needs.files);
        } else {
            slot.needs = needs;
        }
        match made {
            Ok(()) => {
                slot.problem = None;
                slot.shown = shown;
                tracing::info!(
                    owner = &*slot.owner,
                    "certificates or roots have changed; in force from now on"
                );
            }
            Err(Unmade::Waiting) => {}
            Err(Unmade::Wrong(problem)) => {
                let text = problem.to_string();
                if slot.problem.as_deref() != Some(&text) {
                    tracing::error!(
                        owner = &*slot.owner,
                        problem = text,
                        "refused; the certificates before stay"
                    );
                }
                slot.problem = Some(text);
            }
        }
    }
}

fn withdraw<W, C, E>(slots: &mut [Slot<W, C, E>], name: &str)
where
    W: Make<E, Context = C>,
{
    for slot in slots.iter_mut().filter(|slot| slot.needs.own.contains(name)) {
        if let Some(context) = slot.context.upgrade() {
            W::withdraw(&context);
        }
        slot.shown.clear();
    }
}

/// A certificate that replaces another must not be over already.
fn fresh(identity: &Identity, inputs: &Inputs<'_>) -> Result<(), Problem> {
    let leaf = &identity.leaf;
    if inputs.replaces && leaf.has_expired(SystemTime::now()) {
        let at = crate::telemetry::rfc3339(leaf.not_after);
        let expired = crate::tls::MaterialError::Expired { subject: leaf.subject.clone(), at };
        return fail(expired.to_string());
    }
    Ok(())
}

fn secured(socket: Option<&core::TransportSocket>) -> Result<Option<&Any>, Problem> {
    let Some(socket) = socket else { return Ok(None) };
    match &socket.config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any))
            if extension::type_name(any).starts_with(EXTENSION) =>
        {
            Ok(Some(any))
        }
        _ => extension::is_plaintext(Some(socket)).map(|()| None),
    }
}

fn decode<M: prost::Message + prost::Name + Default>(any: &Any) -> Result<M, Problem> {
    from_any(any).map_err(|error| Problem::new(error.to_string())).at("typed_config")
}

/// Whether two messages say the same.
fn is_set<M: prost::Message + Default + PartialEq>(message: Option<&M>) -> bool {
    message.is_some_and(|message| message.encoded_len() > 0)
}

/// Certificates that pages show at most.
const SHOWN: usize = 1_000;

const EXTENSION: &str = "envoy.extensions.transport_sockets.tls.v3.";

#[cfg(test)]
mod tests;
