//! Which policies may apply to a request at all, found without asking each of them.
//!
//! Of most policies it is known what a request must have for them not to say no: one of these callers, one of these paths, this method.
//! A policy is asked only when the request has it. This is about cost alone: a request that can be read in more than one way is not
//! looked up by what is doubtful about it, so that no policy is passed over which may be meant.

use std::borrow::Cow;
use std::hash::Hash;

use rustc_hash::FxHashMap;

use super::facts::{Facts, Peer};
use super::field::{FieldName, FieldTest};
use super::path::PathTest;
use super::rule::Rule;

/// Policies of one set of rules.
pub(crate) const MOST_POLICIES: usize = 4_096;

/// Words of a set of as many policies as there may be.
pub(super) const WORDS: usize = MOST_POLICIES / 64;

/// A set of policies by their numbers, 64 to a word. Few policies need few words: most of what a lookup costs is to clear and to copy them.
pub(super) struct Candidates<const N: usize>([u64; N]);

impl<const N: usize> Candidates<N> {
    /// So many, from the first on.
    fn first(policies: usize) -> Self {
        let mut found = Self([0; N]);
        for (index, word) in found.0.iter_mut().enumerate() {
            let left = policies.saturating_sub(index * 64);
            *word = if left < 64 { (1 << left) - 1 } else { u64::MAX };
        }
        found
    }

    fn are_at_most(&self, many: usize) -> bool {
        self.iter().nth(many).is_none()
    }

    /// Their numbers, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().enumerate().flat_map(|(index, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros() as usize;
                left &= left.wrapping_sub(1);
                (bit < 64).then_some(index * 64 + bit)
            })
        })
    }

    fn keep(&mut self, others: &Self) {
        for (own, bits) in self.0.iter_mut().zip(&others.0) {
            *own &= bits;
        }
    }

    fn add(&mut self, marks: Option<&Marks>) {
        for (word, bits) in marks.into_iter().flat_map(|marks| &marks.0) {
            if let Some(own) = self.0.get_mut(usize::from(*word)) {
                *own |= bits;
            }
        }
    }
}

/// The index.
#[derive(Debug, Default)]
pub(super) struct Index {
    policies: usize,
    names: Table<Box<str>>,
    /// Some of the names are namespaces.
    namespaces: bool,
    paths: Paths,
    methods: Table<Box<str>>,
    hosts: Table<Box<str>>,
    ports: Table<u16>,
}

impl Index {
    /// The index of policies, each a rule for what is asked for and one for who asks.
    pub(super) fn of<'a>(policies: impl Iterator<Item = [&'a Rule; 2]>) -> Self {
        let mut index = Self::default();
        for (number, rules) in policies.enumerate() {
            index.policies = number + 1;
            index.names.add(number, needed(rules, &name_keys));
            index.paths.add(number, needed(rules, &path_keys));
            index.methods.add(number, needed(rules, &method_keys));
            index.hosts.add(number, needed(rules, &host_keys));
            index.ports.add(number, needed(rules, &port_keys));
        }
        index.paths.finish();
        index.namespaces = index.names.keyed.keys().any(|name| name.starts_with(NAMESPACE));
        index
    }

    /// The policies that may apply. `N` words hold them all. When no more than `enough` are left the search ends: to ask them costs
    /// less than to look on.
    pub(super) fn candidates<const N: usize>(&self, facts: &Facts<'_>, enough: usize) -> Candidates<N> {
        let mut found = Candidates::first(self.policies);
        if self.ports.is_used() {
            self.ports.narrow(&mut found, [facts.destination.port()].iter());
        }
        if self.names.is_used() && facts.peer.is_none_or(|peer| !peer.doubtful) {
            found.keep(&self.named(facts.peer));
        }
        let Some(request) = facts.request else { return found };
        if found.are_at_most(enough) {
            return found;
        }
        if self.methods.is_used() {
            self.methods.narrow(&mut found, std::iter::once(&*capitals(request.method.as_str())));
        }
        if self.hosts.is_used()
            && let Some(authority) = &request.authority
        {
            self.hosts.narrow(&mut found, std::iter::once(&*bare_host(authority.as_str())));
        }
        if self.paths.is_used()
            && !found.are_at_most(enough)
            && let Some(path) = facts.plain_path()
        {
            self.paths.narrow(&mut found, path);
        }
        found
    }

    /// The policies that need no name, or one of the peer's.
    fn named<const N: usize>(&self, peer: Option<Peer<'_>>) -> Candidates<N> {
        let mut sum = Candidates([0; N]);
        sum.add(Some(&self.names.open));
        let Some(peer) = peer else { return sum };
        for name in peer.names() {
            sum.add(self.names.keyed.get(name));
            if self.namespaces {
                namespaces(name).for_each(|space| sum.add(self.names.keyed.get(space)));
            }
        }
        sum
    }
}

/// Policies by what they need.
#[derive(Debug)]
struct Table<K> {
    /// Those that need nothing of the kind.
    open: Marks,
    keyed: FxHashMap<K, Marks>,
}

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self { open: Marks::default(), keyed: FxHashMap::default() }
    }
}

impl<K: Hash + Eq> Table<K> {
    fn add(&mut self, policy: usize, keys: Option<Vec<K>>) {
        let Some(keys) = keys else { return self.open.add(policy) };
        for key in keys {
            self.keyed.entry(key).or_default().add(policy);
        }
    }

    fn is_used(&self) -> bool {
        !self.keyed.is_empty()
    }

    /// Leaves those that need nothing, or one of these.
    fn narrow<'a, Q: Hash + Eq + ?Sized + 'a, const N: usize>(
        &self,
        found: &mut Candidates<N>,
        keys: impl Iterator<Item = &'a Q>,
    ) where
        K: std::borrow::Borrow<Q>,
    {
        let mut sum = Candidates([0; N]);
        sum.add(Some(&self.open));
        for key in keys {
            sum.add(self.keyed.get(key));
        }
        found.keep(&sum);
    }
}

/// Policies by their numbers, as words of 64 that are not empty.
#[derive(Debug, Default)]
struct Marks(Vec<(u16, u64)>);

impl Marks {
    /// Numbers come in order.
    fn add(&mut self, policy: usize) {
        let (word, bit) = ((policy / 64) as u16, 1 << (policy % 64));
        match self.0.last_mut().filter(|(last, _)| *last == word) {
            Some((_, bits)) => *bits |= bit,
            None => self.0.push((word, bit)),
        }
    }
}

/// What a path must be, or begin with.
#[derive(Debug, PartialEq, Eq)]
enum PathKey {
    Exact(Box<str>),
    Prefix(Box<str>),
}

/// Policies by path.
#[derive(Debug, Default)]
struct Paths {
    exact: Table<Box<str>>,
    /// By the beginnings of these lengths, ascending.
    prefixes: FxHashMap<Box<str>, Marks>,
    lengths: Vec<usize>,
    /// While it is built.
    pending: Vec<(usize, Box<str>)>,
}

impl Paths {
    fn add(&mut self, policy: usize, keys: Option<Vec<PathKey>>) {
        let Some(keys) = keys else { return self.exact.open.add(policy) };
        for key in keys {
            match key {
                PathKey::Exact(path) => self.exact.keyed.entry(path).or_default().add(policy),
                PathKey::Prefix(prefix) => self.pending.push((policy, prefix)),
            }
        }
    }

    /// Longer beginnings are shortened until there are few lengths: a request's path is looked up once for each.
    fn finish(&mut self) {
        let mut lengths: Vec<usize> = self.pending.iter().map(|(_, prefix)| prefix.len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let step = lengths.len().div_ceil(MOST_LENGTHS).max(1);
        self.lengths = lengths.into_iter().step_by(step).collect();
        for (policy, prefix) in std::mem::take(&mut self.pending) {
            let fits = |length: &&usize| **length <= prefix.len() && prefix.is_char_boundary(**length);
            match self.lengths.iter().rev().find(fits) {
                Some(length) => self.prefixes.entry(prefix[..*length].into()).or_default().add(policy),
                None => self.exact.open.add(policy),
            }
        }
    }

    fn is_used(&self) -> bool {
        self.exact.is_used() || !self.prefixes.is_empty()
    }

    fn narrow<const N: usize>(&self, found: &mut Candidates<N>, path: &str) {
        let mut sum = Candidates([0; N]);
        sum.add(Some(&self.exact.open));
        sum.add(self.exact.keyed.get(path));
        for length in &self.lengths {
            let Some(beginning) = path.get(..*length) else {
                if *length > path.len() {
                    break;
                }
                continue;
            };
            sum.add(self.prefixes.get(beginning));
        }
        found.keep(&sum);
    }
}

/// Lengths of beginnings that are told apart.
const MOST_LENGTHS: usize = 8;

/// What a request must have one of if the rules are not to say no; `None` when nothing is known of that.
fn needed<K>(rules: [&Rule; 2], keys: &impl Fn(&Rule) -> Option<Vec<K>>) -> Option<Vec<K>> {
    shortest(rules.into_iter().map(|rule| needed_by(rule, keys)))
}

fn needed_by<K>(rule: &Rule, keys: &impl Fn(&Rule) -> Option<Vec<K>>) -> Option<Vec<K>> {
    match rule {
        Rule::All(rules) => shortest(rules.iter().map(|rule| needed_by(rule, keys))),
        Rule::Any(rules) => {
            let all: Option<Vec<Vec<K>>> = rules.iter().map(|rule| needed_by(rule, keys)).collect();
            all.map(|all| all.into_iter().flatten().collect())
        }
        rule => keys(rule),
    }
}

fn shortest<K>(all: impl Iterator<Item = Option<Vec<K>>>) -> Option<Vec<K>> {
    all.flatten().min_by_key(Vec::len)
}

fn name_keys(rule: &Rule) -> Option<Vec<Box<str>>> {
    let (Rule::Peer(Some(text)) | Rule::PeerUri(text)) = rule else { return None };
    let key = text.only().or_else(|| namespaces(text.part()?).next())?;
    Some(vec![key.into()])
}

/// Every `/ns/<namespace>/` of a name. A rule over namespaces has one in its text; names that it holds of have the same.
fn namespaces(name: &str) -> impl Iterator<Item = &str> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let bytes = name.as_bytes();
        let marks = &mut bytes.get(next..)?.windows(NAMESPACE.len());
        let start = next + marks.position(|mark| mark == NAMESPACE.as_bytes())?;
        // Marks may overlap: `/ns/ns/x/` has two.
        next = start + 1;
        let begin = start + NAMESPACE.len();
        let length = bytes.get(begin..)?.iter().position(|byte| *byte == b'/')?;
        name.get(start..=begin + length)
    })
}

const NAMESPACE: &str = "/ns/";

fn path_keys(rule: &Rule) -> Option<Vec<PathKey>> {
    let Rule::Path(test) = rule else { return None };
    let key = match &**test {
        PathTest::Text(text) => match text.only() {
            Some(path) => PathKey::Exact(path.into()),
            None => PathKey::Prefix(text.beginning()?.into()),
        },
        PathTest::Template(template) => match template.beginning() {
            (path, true) => PathKey::Exact(path.into()),
            (path, false) => PathKey::Prefix(path.into()),
        },
    };
    // Every path has it: that tells nothing.
    let tells = !matches!(&key, PathKey::Prefix(prefix) if prefix.len() < 2);
    tells.then(|| vec![key])
}

fn method_keys(rule: &Rule) -> Option<Vec<Box<str>>> {
    Some(vec![capitals(field_text(rule, &FieldName::Method)?.whole()?).into()])
}

fn host_keys(rule: &Rule) -> Option<Vec<Box<str>>> {
    Some(vec![bare_host(field_text(rule, &FieldName::Authority)?.whole()?).into()])
}

fn field_text<'a>(rule: &'a Rule, name: &FieldName) -> Option<&'a super::text::Text> {
    match rule {
        Rule::Field(field) if field.name == *name && !field.invert && !field.missing_as_empty => {
            match &field.test {
                FieldTest::Text(text) => Some(text),
                _ => None,
            }
        }
        _ => None,
    }
}

fn port_keys(rule: &Rule) -> Option<Vec<u16>> {
    match rule {
        Rule::Ports(from, to) if *to == from.saturating_add(1) => Some(vec![u16::try_from(*from).ok()?]),
        _ => None,
    }
}

/// A method without what may not tell it from another.
fn capitals(method: &str) -> Cow<'_, str> {
    if method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        Cow::Owned(method.to_ascii_uppercase())
    } else {
        Cow::Borrowed(method)
    }
}

/// A host without what may not tell it from another: its port, the root's dot, capitals.
fn bare_host(authority: &str) -> Cow<'_, str> {
    let port = authority.rfind(':').filter(|colon| authority[*colon..].find(']').is_none());
    let host = port.map_or(authority, |colon| &authority[..colon]).trim_end_matches('.');
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}
