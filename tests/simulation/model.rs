//! What clients and the upstream may see, whatever happens: the rules that the engine is held to.
//!
//! The model knows what is true (the registry's content, and what its tags ever meant) and hears
//! what was observed. It knows nothing of how the engine works.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use pierhead::oci::{Digest, Reference, Tag};
use pierhead::scope::Scope;

use crate::registry::Transfer;

/// The rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A client gets bytes of the content that it asked for. Others only where upstream sent others.
    RightBytes,
    /// An answer that reaches the content's end completes only if all of it is verified.
    OnlyVerifiedCompletes,
    /// A manifest is the one that was asked for: of a tag, one that upstream had under it.
    RightManifest,
    /// What the cache has whole is served, whatever upstream does.
    CachedIsServed,
    /// Every answer begins in time and ends in time.
    Ends,
    /// Upstream sends every byte once for each time that it is needed.
    TransferredOnce,
    /// When everybody is gone, nothing is at work and no room is taken.
    NothingLeft,
    /// When upstream is well again, everything can be had.
    Recovers,
    /// Nothing panics.
    NoPanic,
}

/// A rule that was broken, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) Rule, pub(crate) String);

/// What a client got of a blob.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    pub(crate) digest: Digest,
    /// The bytes were those of the content, where they stood in it.
    pub(crate) right: bool,
    /// The answer ended as it should, with everything that its head had promised.
    pub(crate) complete: bool,
    /// The answer was a bounded range: its reader assembles and verifies the content.
    pub(crate) bounded: bool,
    /// The answer was all of the content.
    pub(crate) whole: bool,
}

/// The model.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// What each repository has been served, whole.
    served: BTreeSet<(Scope, Digest)>,
    /// What was seen in the store, and not evicted since.
    stored: BTreeSet<Digest>,
    /// What each tag was answered with.
    answered: BTreeMap<(Scope, Tag), BTreeSet<Digest>>,
    /// How often each blob was evicted.
    evictions: BTreeMap<Digest, u64>,
    /// How often the process was killed.
    crashes: u64,
}

impl Model {
    /// A client's reading of a blob is over. `lied`: upstream has sent other bytes for it.
    pub(crate) fn blob(&mut self, scope: &Scope, got: &Got, lied: bool) -> Result<(), Broken> {
        let Got { digest, right, complete, bounded, whole } = got;
        if !right && *complete && !bounded {
            return broken(Rule::OnlyVerifiedCompletes, format!("wrong bytes of {digest}"));
        }
        if !right && !lied {
            return broken(Rule::RightBytes, format!("bytes of {digest} that nobody sent"));
        }
        if *complete && *whole {
            self.served.insert((scope.clone(), *digest));
        }
        Ok(())
    }

    /// A client that asked for `asked` got the manifest `digest`, or only heard that it has that
    /// digest (not `whole`). Of a tag, `meant` tells what it meant until now.
    pub(crate) fn manifest(
        &mut self,
        scope: &Scope,
        asked: &Reference,
        (digest, whole): (&Digest, bool),
        meant: impl Fn(&Tag, &Digest) -> bool,
    ) -> Result<(), Broken> {
        let is_right = match asked {
            Reference::Digest(asked) => asked == digest,
            Reference::Tag(tag) => meant(tag, digest),
        };
        if !is_right {
            return broken(Rule::RightManifest, format!("{asked} was answered by {digest}"));
        }
        if whole {
            self.served.insert((scope.clone(), *digest));
            if let Reference::Tag(tag) = asked {
                self.answered.entry((scope.clone(), tag.clone())).or_default().insert(*digest);
            }
        }
        Ok(())
    }

    /// The store has that.
    pub(crate) fn stored(&mut self, digest: &Digest) {
        self.stored.insert(*digest);
    }

    /// It was evicted: nobody can expect it any more.
    pub(crate) fn evicted(&mut self, digest: &Digest) {
        self.stored.remove(digest);
        self.served.retain(|(_, served)| served != digest);
        *self.evictions.entry(*digest).or_default() += 1;
    }

    /// The process was killed.
    pub(crate) fn crashed(&mut self) {
        self.crashes += 1;
    }

    /// Whether that repository can expect all of `parts` from the cache alone.
    pub(crate) fn is_cached(&self, scope: &Scope, parts: impl IntoIterator<Item = Digest>) -> bool {
        parts
            .into_iter()
            .all(|part| self.stored.contains(&part) && self.served.contains(&(scope.clone(), part)))
    }

    /// What that tag was ever answered with.
    pub(crate) fn answers(&self, scope: &Scope, tag: &Tag) -> BTreeSet<Digest> {
        self.answered.get(&(scope.clone(), tag.clone())).cloned().unwrap_or_default()
    }

    /// What upstream sent of a blob of `size` bytes, when all is over.
    pub(crate) fn transfers(
        &self,
        digest: &Digest,
        size: u64,
        transfers: &[Transfer],
    ) -> Result<(), Broken> {
        let own = || transfers.iter().filter(|transfer| transfer.digest == *digest);
        let wasted = own().filter_map(|transfer| transfer.fault).map(|fault| match fault {
            // It is of no use, nor is what had come before: nobody knows what of it is wrong.
            fault if fault.is_lie() => 2,
            fault => u64::from(fault.wastes()),
        });
        let wasted: u64 = wasted.sum();
        let evictions = self.evictions.get(digest).copied().unwrap_or(0);
        let again = wasted + evictions + self.crashes;
        let twice = overlap(own().map(|transfer| transfer.sent.clone()).collect());
        if twice > again * size {
            let why = format!("{twice} bytes of {digest} ({size}) were sent more than once");
            return broken(Rule::TransferredOnce, format!("{why}, with {again} reasons"));
        }
        Ok(())
    }
}

/// What is at work, or takes room, when everybody is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) fills: usize,
    pub(crate) followers: i64,
    /// By kind.
    pub(crate) tasks: BTreeMap<String, i64>,
    /// What is inside of gates, by their limit.
    pub(crate) limits: BTreeMap<String, i64>,
    /// Room that is taken by no blob and no parked spool, in bytes.
    pub(crate) reserved: u64,
    /// What is parked of blobs that are stored whole.
    pub(crate) useless: Vec<Digest>,
}

/// Judges what is left.
pub(crate) fn nothing_left(left: &Left) -> Result<(), Broken> {
    match *left == Left::default() {
        true => Ok(()),
        false => broken(Rule::NothingLeft, format!("{left:?}")),
    }
}

/// Judges something that had a bound of time: `None` if it was over that.
pub(crate) fn in_time<T>(what: &str, done: Option<T>) -> Result<T, Broken> {
    done.ok_or_else(|| Broken(Rule::Ends, format!("{what} takes for ever")))
}

/// Judges a failure, of which clients see `why`: of what is `cached`, or when upstream is `well`.
pub(crate) fn failed(cached: bool, well: bool, why: &str) -> Result<(), Broken> {
    match (cached, well) {
        (true, _) => broken(Rule::CachedIsServed, why),
        (false, true) => broken(Rule::Recovers, why),
        (false, false) => Ok(()),
    }
}

/// Judges how many panics there were.
pub(crate) fn no_panics(panics: u64) -> Result<(), Broken> {
    match panics {
        0 => Ok(()),
        panics => broken(Rule::NoPanic, format!("{panics} of them; their messages are above")),
    }
}

/// How many bytes lie in spans more than once.
pub(crate) fn overlap(mut spans: Vec<Range<u64>>) -> u64 {
    spans.sort_by_key(|span| span.start);
    let (mut twice, mut reached) = (0, 0);
    for span in spans {
        twice += span.end.min(reached).saturating_sub(span.start);
        reached = reached.max(span.end);
    }
    twice
}

/// That rule was broken.
pub(crate) fn broken<T>(rule: Rule, why: impl Into<String>) -> Result<T, Broken> {
    Err(Broken(rule, why.into()))
}
