//! Verdicts that may be used again.
//!
//! A verdict says what it depended on; it answers questions that are equal in exactly that, until
//! its time is over. So a pull of forty layers costs one call. Keys hold the inputs themselves, not
//! hashes of them, and a look-up allocates nothing: it is the way of a warm pull.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use equivalent::Equivalent;
use moka::sync::Cache;
use tokio::time::Instant;

use super::guest::{DependsOn, Reuse};
use super::mount::Judged;
use super::question::{Inputs, Kind};
use crate::clock::{Clock, Timestamp};
use crate::hooks::facts::Facts;
use crate::hooks::{Action, Identity};
use crate::oci::{Digest, Tag};
use crate::scope::Scope;

/// The longest that a verdict is used again, whatever it says.
pub(super) const DECISION_TTL_MAX: Duration = Duration::from_secs(3600);

/// How many sets of inputs one mount may say that it depended on; verdicts with further ones are
/// not used again. Each costs a look-up.
const SETS_MAX: usize = 4;

/// A minute, in milliseconds.
const MINUTE_MS: u64 = 60_000;

/// The verdicts of all mounts. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Decisions {
    cache: Cache<Key, Entry>,
    clock: Clock,
    facts: Facts,
}

/// The sets of inputs that the verdicts of one mount depended on, so far.
#[derive(Debug, Default)]
pub(super) struct Sets([AtomicU16; SETS_MAX]);

/// Marks a place of [`Sets`] as taken; the low byte is the set.
const TAKEN: u16 = 1 << 8;

impl Sets {
    fn iter(&self) -> impl Iterator<Item = DependsOn> + '_ {
        self.0
            .iter()
            .map(|place| place.load(Ordering::Relaxed))
            .take_while(|place| place & TAKEN != 0)
            .map(|place| DependsOn::from_bits((place & 0xff) as u8))
    }

    /// Whether there was a place for it.
    fn add(&self, set: DependsOn) -> bool {
        let wanted = TAKEN | u16::from(set.bits());
        self.0.iter().any(|place| {
            let free = place.compare_exchange(0, wanted, Ordering::Relaxed, Ordering::Relaxed);
            free.is_ok() || free == Err(wanted)
        })
    }
}

/// What stands still while a question is answered: a verdict that began before a fact changed must
/// not answer for later ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    now: Timestamp,
    facts: u64,
    /// When a fact that is known now ends.
    facts_until: Option<Timestamp>,
}

impl Decisions {
    /// At most `entries_max` verdicts.
    pub(super) fn new(entries_max: u64, clock: Clock, facts: Facts) -> Self {
        let cache = Cache::builder().name("decisions").max_capacity(entries_max).build();
        Self { cache, clock, facts }
    }

    /// A verdict of the mount `mount` that answers this, if one is kept.
    pub(super) fn get(&self, mount: u64, sets: &Sets, inputs: &Inputs<'_>) -> Option<Arc<Judged>> {
        let mut found = None;
        for on in sets.iter() {
            let minute = if on.has(DependsOn::TIME) { minute(self.clock.now()) } else { 0 };
            let facts = if on.has(DependsOn::FACTS) { self.facts.mark(inputs.digest).0 } else { 0 };
            let key = KeyRef { mount, on, inputs, minute, facts };
            if let Some(entry) = self.cache.get(&key)
                && Instant::now() < entry.until
            {
                found = Some(entry.judged);
                break;
            }
        }
        found
    }

    /// The moment before a question is asked.
    pub(super) fn moment(&self, inputs: &Inputs<'_>) -> Moment {
        let (facts, facts_until) = self.facts.mark(inputs.digest);
        Moment { now: self.clock.now(), facts, facts_until }
    }

    /// Keeps a verdict. `until_at_most` is when the mount's answer is over in any case.
    pub(super) fn put(
        &self,
        mount: u64,
        sets: &Sets,
        inputs: &Inputs<'_>,
        moment: Moment,
        reuse: Reuse,
        judged: Arc<Judged>,
    ) {
        let on = reuse.on;
        let mut life = reuse.ttl.min(DECISION_TTL_MAX);
        let mut ends_by = |end: Option<Timestamp>| {
            if let Some(end) = end {
                life = life.min(end.since(moment.now));
            }
        };
        if on.has(DependsOn::IDENTITY) {
            ends_by(inputs.identity.and_then(|identity| identity.expires_at));
        }
        if on.has(DependsOn::FACTS) {
            ends_by(moment.facts_until);
        }
        if on.has(DependsOn::TIME) {
            ends_by(Some(Timestamp::from_unix_ms((minute(moment.now) + 1) * MINUTE_MS)));
        }
        if life.is_zero() || !sets.add(on) {
            return;
        }
        let minute = if on.has(DependsOn::TIME) { minute(moment.now) } else { 0 };
        let facts = if on.has(DependsOn::FACTS) { moment.facts } else { 0 };
        let key = KeyRef { mount, on, inputs, minute, facts }.to_owned();
        self.cache.insert(key, Entry { judged, until: Instant::now() + life });
    }
}

const fn minute(at: Timestamp) -> u64 {
    at.unix_ms() / MINUTE_MS
}

#[derive(Clone, Debug)]
struct Entry {
    judged: Arc<Judged>,
    until: Instant,
}

/// What a kept verdict answers. What it did not depend on is absent.
#[derive(Debug, PartialEq, Eq)]
struct Key {
    mount: u64,
    on: DependsOn,
    identity: Option<Arc<Identity>>,
    tls_subject: Option<Box<str>>,
    address: Option<IpAddr>,
    encrypted: Option<bool>,
    user_agent: Option<Box<str>>,
    scope: Option<Scope>,
    tag: Option<Tag>,
    digest: Option<Digest>,
    action: Option<(Action, Kind)>,
    minute: u64,
    facts: u64,
}

/// The same by reference.
struct KeyRef<'a> {
    mount: u64,
    on: DependsOn,
    inputs: &'a Inputs<'a>,
    minute: u64,
    facts: u64,
}

impl KeyRef<'_> {
    fn identity(&self) -> Option<&Arc<Identity>> {
        self.inputs.identity.filter(|_| self.on.has(DependsOn::IDENTITY))
    }

    fn tls_subject(&self) -> Option<&str> {
        self.inputs.tls_subject.filter(|_| self.on.has(DependsOn::IDENTITY))
    }

    fn address(&self) -> Option<IpAddr> {
        self.on.has(DependsOn::CLIENT_ADDRESS).then_some(self.inputs.address)
    }

    /// What else a policy is told of the client goes with its address.
    fn encrypted(&self) -> Option<bool> {
        self.on.has(DependsOn::CLIENT_ADDRESS).then_some(self.inputs.encrypted)
    }

    fn user_agent(&self) -> Option<&str> {
        self.inputs.user_agent.filter(|_| self.on.has(DependsOn::CLIENT_ADDRESS))
    }

    fn scope(&self) -> Option<&Scope> {
        Some(self.inputs.scope).filter(|_| self.on.has(DependsOn::REPOSITORY))
    }

    fn tag(&self) -> Option<&Tag> {
        self.inputs.tag.filter(|_| self.on.has(DependsOn::TAG))
    }

    fn digest(&self) -> Option<&Digest> {
        self.inputs.digest.filter(|_| self.on.has(DependsOn::DIGEST))
    }

    fn action(&self) -> Option<(Action, Kind)> {
        self.on.has(DependsOn::ACTION).then_some((self.inputs.action, self.inputs.kind))
    }

    fn to_owned(&self) -> Key {
        Key {
            mount: self.mount,
            on: self.on,
            identity: self.identity().cloned(),
            tls_subject: self.tls_subject().map(Box::from),
            address: self.address(),
            encrypted: self.encrypted(),
            user_agent: self.user_agent().map(Box::from),
            scope: self.scope().cloned(),
            tag: self.tag().cloned(),
            digest: self.digest().copied(),
            action: self.action(),
            minute: self.minute,
            facts: self.facts,
        }
    }
}

/// What both hash, in one place. Of the rest (claims, groups, the certificate's name, what the
/// client calls itself) equality alone takes notice.
struct Hashed<'a> {
    numbers: (u64, DependsOn, u64, u64),
    subject: Option<&'a str>,
    address: Option<IpAddr>,
    scope: Option<&'a Scope>,
    tag: Option<&'a Tag>,
    digest: Option<&'a Digest>,
    action: Option<(Action, Kind)>,
}

impl Hashed<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.numbers.hash(state);
        self.subject.hash(state);
        self.address.hash(state);
        self.scope.hash(state);
        self.tag.hash(state);
        self.digest.hash(state);
        self.action.hash(state);
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Hashed {
            numbers: (self.mount, self.on, self.minute, self.facts),
            subject: self.identity.as_ref().map(|identity| identity.subject.as_str()),
            address: self.address,
            scope: self.scope.as_ref(),
            tag: self.tag.as_ref(),
            digest: self.digest.as_ref(),
            action: self.action,
        }
        .hash(state);
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Hashed {
            numbers: (self.mount, self.on, self.minute, self.facts),
            subject: self.identity().map(|identity| identity.subject.as_str()),
            address: self.address(),
            scope: self.scope(),
            tag: self.tag(),
            digest: self.digest(),
            action: self.action(),
        }
        .hash(state);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        (self.mount, self.on, self.minute, self.facts)
            == (key.mount, key.on, key.minute, key.facts)
            && self.digest() == key.digest.as_ref()
            && self.scope() == key.scope.as_ref()
            && self.tag() == key.tag.as_ref()
            && self.action() == key.action
            && self.address() == key.address
            && self.encrypted() == key.encrypted
            && self.user_agent() == key.user_agent.as_deref()
            && self.tls_subject() == key.tls_subject.as_deref()
            // An `Arc` of an identity that is compared with itself is equal at once.
            && self.identity() == key.identity.as_ref()
    }
}
