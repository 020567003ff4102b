//! One root and what signs in its name: made by us, or given by the user; on disk and in memory.
//!
//! Two files: `<id>.root.pem` has the root's certificate (and its key, when it is ours), `<id>.issuing.pem` the key that signs leaves
//! and the certificates between a leaf and the root. The root's key is read only when a new issuing key is made.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SerialNumber,
};

use super::certificate::{self, Facts, Moment};
use super::directory::{Directory, read_text};
use super::error::CaError;
use super::leaf::{Serial, set_validity};
use super::options::Given;
use super::pem;

/// A root, and the key that signs leaves for it.
#[derive(Debug)]
pub(super) struct Generation {
    /// SHA-256 of the root's certificate.
    pub(super) fingerprint: String,
    /// The root, as PEM.
    pub(super) root: String,
    pub(super) root_until: u64,
    /// Whether the root's key is ours.
    pub(super) own: bool,
    pub(super) issuer: Issuer<'static, KeyPair>,
    /// From the certificate that signs leaves to the last one below the root, as PEM; empty when the root itself signs.
    pub(super) chain: Vec<String>,
    pub(super) issuing_from: u64,
    pub(super) issuing_until: u64,
    /// SHA-256 of the public keys that no leaf may have.
    pub(super) keys: Vec<String>,
}

/// The text of both files.
pub(super) struct Files {
    root: String,
    issuing: String,
}

impl Generation {
    /// The name of its files, and how people call it.
    pub(super) fn id(&self) -> &str {
        id(&self.fingerprint)
    }

    /// SHA-256 of the public key that signs leaves.
    pub(super) fn issuing_key(&self) -> &str {
        self.keys.last().map_or("", String::as_str)
    }

    /// Reads a generation that the folder has.
    pub(super) fn load(directory: &Directory, fingerprint: &str, at: &Moment<'_>) -> Result<Self, CaError> {
        let read = |name: String| -> Result<String, CaError> {
            let path = directory.file(&name);
            directory.read(&name)?.ok_or_else(|| {
                CaError::content(&path, "the file is missing: bring it back from a backup (a new root in an empty folder is trusted by nobody until every proxy has started again)")
            })
        };
        let (root_name, issuing_name) = names(fingerprint);
        let files = Files { root: read(root_name.clone())?, issuing: read(issuing_name)? };
        let generation = files.parse(at).map_err(|what| {
            CaError::content(directory.path(), format!("the files {}.*: {what}", id(fingerprint)))
        })?;
        if generation.fingerprint != fingerprint {
            return Err(CaError::content(
                &directory.file(&root_name),
                "it is another root than the one that was kept under this name: bring back the folder from a backup",
            ));
        }
        Ok(generation)
    }

    /// Makes a root of our own and an issuing key; nothing is kept yet.
    pub(super) fn make(at: &Moment<'_>) -> Result<(Self, Files), CaError> {
        let (root, issuing) = forge(at)
            .map_err(|error| CaError::Refused(format!("cannot make keys for the authority: {error}")))?;
        let files = Files { root, issuing };
        let generation = files.parse(at).map_err(CaError::Refused)?;
        Ok((generation, files))
    }

    /// Reads what the user gives.
    pub(super) fn given(given: &Given, at: &Moment<'_>) -> Result<(Self, Files), CaError> {
        let chain = read_text(&given.certificate)?;
        let key = read_text(&given.key)?;
        let mut certificates =
            pem::certificates(&chain).map_err(|what| CaError::content(&given.certificate, what))?;
        let root = match &given.root {
            Some(path) => {
                let mut roots =
                    pem::certificates(&read_text(path)?).map_err(|what| CaError::content(path, what))?;
                let one = if roots.len() == 1 { roots.pop() } else { None };
                one.ok_or_else(|| CaError::content(path, "it must hold exactly one certificate, the root; further roots that are trusted go into --trust-bundle"))?
            }
            None => certificates
                .last()
                .cloned()
                .ok_or_else(|| CaError::content(&given.certificate, "there is no certificate in it"))?,
        };
        // The root ends the chain in some people's files and not in others'.
        certificates.retain(|certificate| *certificate != root);
        let mut issuing = key_section(&key).map_err(|what| CaError::content(&given.key, what))?;
        for certificate in &certificates {
            issuing.push_str(&pem::certificate(certificate));
        }
        let files = Files { root: pem::certificate(&root), issuing };
        let generation = files.parse(at).map_err(|what| CaError::content(&given.certificate, what))?;
        Ok((generation, files))
    }

    /// A new issuing key from the root's key in the folder.
    fn under(directory: &Directory, fingerprint: &str, at: &Moment<'_>) -> Result<(Self, Files), CaError> {
        let (name, _) = names(fingerprint);
        let root = directory.read(&name)?.ok_or_else(|| {
            CaError::content(&directory.file(&name), "the file is missing: bring it back from a backup")
        })?;
        let issuing =
            issue_for(&root, at.now).map_err(|what| CaError::content(&directory.file(&name), what))?;
        let files = Files { root, issuing };
        let generation = files.parse(at).map_err(|what| CaError::content(&directory.file(&name), what))?;
        Ok((generation, files))
    }
}

/// When the issuing key has ended while nobody looked, or has not begun, the root can make another one.
impl Generation {
    /// Whether the root's key is in the folder and its certificate still holds, while the issuing one does not.
    pub(super) fn may_renew(directory: &Directory, fingerprint: &str, at: &Moment<'_>) -> bool {
        let (root, issuing) = names(fingerprint);
        let text = |name: &str| directory.read(name).ok().flatten().unwrap_or_default();
        let (root, issuing) = (text(&root), text(&issuing));
        let facts = |text: &str| certificate::only(text).and_then(|der| Facts::read(&der));
        let valid = facts(&root).is_ok_and(|facts| facts.check_authority("the root", at.now).is_ok());
        // Made while the clock was ahead, it begins in the future: that is no reason to stand still until then.
        let over = |facts: Facts| facts.until <= at.now || at.now < facts.from;
        valid && certificate::key(&root).is_ok() && facts(&issuing).is_ok_and(over)
    }

    /// Makes and keeps a new issuing key.
    pub(super) fn renew(directory: &Directory, fingerprint: &str, at: &Moment<'_>) -> Result<Self, CaError> {
        let (generation, files) = Self::under(directory, fingerprint, at)?;
        files.save(directory, fingerprint)?;
        Ok(generation)
    }
}

impl Files {
    /// Keeps both; the generation counts only when `authority.json` names it.
    pub(super) fn save(&self, directory: &Directory, fingerprint: &str) -> Result<(), CaError> {
        let (root, issuing) = names(fingerprint);
        // The same root given by flags comes without its key, which is nowhere else than here.
        let has_key = |text: &str| text.contains("PRIVATE KEY");
        let kept = directory.read(&root)?;
        if !kept.is_some_and(|kept| has_key(&kept) && !has_key(&self.root)) {
            directory.write(&root, &self.root)?;
        }
        directory.write(&issuing, &self.issuing)
    }

    /// Reads both, and proves that leaves signed with them verify.
    fn parse(&self, at: &Moment<'_>) -> Result<Generation, String> {
        let root = certificate::only(&self.root)?;
        let root_facts = Facts::read(&root)?;
        root_facts.check_authority("the root", at.now)?;
        if !root_facts.is_self_signed {
            return Err("the root is not self-signed: give the root of the chain with --ca-root".to_owned());
        }
        let chain = pem::certificates(&self.issuing)?;
        let key = certificate::key(&self.issuing)?;
        let signing = chain.first().unwrap_or(&root);
        let facts = Facts::read(signing)?;
        facts.check_authority("the certificate that signs", at.now)?;
        facts.check_key(&key)?;
        let issuer = Issuer::from_ca_cert_der(signing, key)
            .map_err(|error| format!("the certificate that signs cannot be used: {error}"))?;
        certificate::probe(&issuer, &chain, &root, at)?;
        // What stands between may end before the certificate that signs.
        let mut ends = vec![facts.until, root_facts.until];
        for certificate in &chain {
            ends.push(Facts::read(certificate)?.until);
        }
        Ok(Generation {
            fingerprint: pem::fingerprint(&root),
            root: pem::certificate(&root),
            root_until: root_facts.until,
            own: self.root.contains("PRIVATE KEY"),
            issuer,
            chain: chain.iter().map(|der| pem::certificate(der)).collect(),
            issuing_from: facts.from,
            issuing_until: ends.into_iter().min().unwrap_or_default(),
            keys: vec![root_facts.key, facts.key],
        })
    }
}

/// Both files of a generation.
pub(super) fn names(fingerprint: &str) -> (String, String) {
    let id = id(fingerprint);
    (format!("{id}{ROOT}"), format!("{id}{ISSUING}"))
}

/// Whether a file of the folder is a generation's, and of which.
pub(super) fn id_of(name: &str) -> Option<&str> {
    let id = name.strip_suffix(ROOT).or_else(|| name.strip_suffix(ISSUING))?;
    (id.len() == ID_LENGTH && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// The short form of a fingerprint.
pub(super) fn id(fingerprint: &str) -> &str {
    fingerprint.get(..ID_LENGTH).unwrap_or(fingerprint)
}

/// The section with the private key, alone.
fn key_section(text: &str) -> Result<String, String> {
    certificate::key(text)?;
    let lines =
        text.lines().skip_while(|line| !(line.starts_with("-----BEGIN ") && line.contains("PRIVATE KEY")));
    let mut section = String::new();
    for line in lines {
        section.push_str(line.trim_end());
        section.push('\n');
        if line.starts_with("-----END ") {
            return Ok(section);
        }
    }
    Err("the private key has no end".to_owned())
}

/// Makes the texts of a root's and an issuing key's file.
fn forge(at: &Moment<'_>) -> Result<(String, String), String> {
    let text = |error: rcgen::Error| error.to_string();
    let key = KeyPair::generate().map_err(text)?;
    let mut params = authority("Sidegate root", at.trust_domain, at.now, ROOT_LIFE)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&key).map_err(text)?;
    let root = format!("{}{}", pem::certificate(root.der()), key.serialize_pem());
    let issuing = issue_for(&root, at.now)?;
    Ok((root, issuing))
}

/// Makes an issuing key that the root in `text` signs.
fn issue_for(text: &str, now: u64) -> Result<String, String> {
    let reason = |error: rcgen::Error| error.to_string();
    let root = certificate::only(text)?;
    let facts = Facts::read(&root)?;
    let root = Issuer::from_ca_cert_der(&root, certificate::key(text)?).map_err(reason)?;
    let key = KeyPair::generate().map_err(reason)?;
    let life = ISSUING_LIFE.min(facts.until.saturating_sub(now));
    let mut params = authority("Sidegate issuing", &facts.organisation, now, life)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.use_authority_key_identifier_extension = true;
    let issuing = params.signed_by(&key, &root).map_err(reason)?;
    Ok(format!("{}{}", key.serialize_pem(), pem::certificate(issuing.der())))
}

fn authority(name: &str, trust_domain: &str, now: u64, life: u64) -> Result<CertificateParams, String> {
    let serial = Serial::random().map_err(|_| "the system gives no random numbers".to_owned())?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    // Two roots must differ by name, too: some verifiers look for an issuer by nothing else.
    params.distinguished_name.push(DnType::CommonName, format!("{name} {}", &serial.text()[..8]));
    params.serial_number = Some(SerialNumber::from_slice(&serial.0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now.saturating_sub(BACKDATED), now + life);
    Ok(params)
}

const ROOT: &str = ".root.pem";
const ISSUING: &str = ".issuing.pem";
const ID_LENGTH: usize = 16;

const DAY: u64 = 24 * 3600;
const ROOT_LIFE: u64 = 3650 * DAY;
const ISSUING_LIFE: u64 = 365 * DAY;

/// An issuing key is replaced when it has less than this left.
pub(super) const ISSUING_MARGIN: u64 = 90 * DAY;

/// Another machine's clock may be behind ours.
const BACKDATED: u64 = 3600;
