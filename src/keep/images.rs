//! Which images there are, and in what order they would go: pure functions over what is known.
//!
//! A unit is what is evicted together: an image with everything that no other image needs, or a
//! blob that belongs to no stored image. Half an image serves no pull while upstream is away, so
//! whole images go before parts of others.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::catalogue::Known;
use super::policy::{Use, worth};
use crate::clock::Timestamp;
use crate::oci::Digest;
use crate::scope::UpstreamName;

/// An image used this recently may be in the middle of being pulled: it goes after all others, and
/// then only in parts.
pub(super) const ACTIVE_FOR: Duration = Duration::from_secs(120);

/// Stored manifests that one index can gather into one image. Real ones have a dozen platforms,
/// each perhaps with its attestation.
const PLATFORMS_MAX: usize = 64;

/// An image, or a blob that belongs to none.
#[derive(Clone, Debug)]
pub(super) struct Unit {
    /// The manifest that nothing stored names, or the blob.
    pub(super) root: Digest,
    /// Everything of it that is stored, the root included; each once.
    pub(super) members: Vec<Digest>,
    /// Whether it is an image.
    pub(super) is_image: bool,
    /// How it was used.
    pub(super) used: Use,
    /// When its root was stored.
    pub(super) stored_at: Timestamp,
    /// Where it came from.
    pub(super) upstream: Option<UpstreamName>,
    /// What would be free if it went, in bytes: what it shares stays.
    pub(super) own_bytes: u64,
    /// Whether a pin keeps it.
    pub(super) is_pinned: bool,
    /// Whether it was used within [`ACTIVE_FOR`].
    pub(super) is_active: bool,
}

/// What is stored, as units, in the order in which they would go: the pinned ones never, the
/// active ones last.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) units: Vec<Unit>,
    /// In how many units each blob is.
    shared: HashMap<Digest, usize>,
    /// What pins keep.
    kept: HashSet<Digest>,
}

/// Builds the order. `pinned` are the digests of pinned manifests.
pub(super) fn order(
    known: &HashMap<Digest, Known>,
    pinned: &HashSet<Digest>,
    now: Timestamp,
) -> Order {
    let named: HashSet<Digest> = known.keys().flat_map(|digest| parts(known, digest)).collect();
    let kept = kept(known, pinned);
    let roots = known.iter().filter(|(digest, _)| !named.contains(digest));
    let mut units: Vec<Unit> = roots
        .map(|(root, about)| Unit {
            root: *root,
            members: members(known, root),
            is_image: about.parts.is_some(),
            used: about.used,
            stored_at: about.stored_at,
            upstream: about.upstream.clone(),
            own_bytes: 0,
            is_pinned: false,
            is_active: false,
        })
        .collect();
    let mut shared: HashMap<Digest, usize> = HashMap::with_capacity(known.len());
    for member in units.iter().flat_map(|unit| &unit.members) {
        *shared.entry(*member).or_default() += 1;
    }
    for unit in &mut units {
        unit.judge(known, &shared, &kept, now);
    }
    // Equal ones in some order that does not change from one look to the next.
    units.sort_by(|a, b| {
        let key = |unit: &Unit| (unit.is_pinned, unit.is_active);
        let worth = |unit: &Unit| worth(&unit.used, unit.own_bytes, now);
        key(a).cmp(&key(b)).then_with(|| worth(a).cmp(&worth(b))).then_with(|| a.root.cmp(&b.root))
    });
    Order { units, shared, kept }
}

/// What of the parts of a manifest is stored and goes with it.
///
/// A manifest can name anything. One that names manifests of another upstream, or a heap of them,
/// does not make one image of them: each of those stays its own.
fn parts(known: &HashMap<Digest, Known>, digest: &Digest) -> Vec<Digest> {
    let Some(about) = known.get(digest) else { return Vec::new() };
    let named = about.parts.as_deref().unwrap_or_default();
    let stored = named.iter().filter_map(|part| Some((*part, known.get(part)?)));
    let (manifests, mut parts): (Vec<_>, Vec<_>) =
        stored.partition(|(_, part)| part.parts.is_some());
    if manifests.len() <= PLATFORMS_MAX {
        parts.extend(manifests.into_iter().filter(|(_, part)| part.upstream == about.upstream));
    }
    parts.into_iter().map(|(part, _)| part).collect()
}

/// What pins keep: everything below a pinned manifest, and the indexes that name it.
fn kept(known: &HashMap<Digest, Known>, pinned: &HashSet<Digest>) -> HashSet<Digest> {
    let below = pinned.iter().filter(|digest| known.contains_key(*digest));
    let mut kept: HashSet<Digest> = below.flat_map(|digest| members(known, digest)).collect();
    let names_one = |about: &Known| {
        about.parts.as_deref().is_some_and(|parts| parts.iter().any(|part| pinned.contains(part)))
    };
    kept.extend(known.iter().filter(|(_, about)| names_one(about)).map(|(digest, _)| *digest));
    kept
}

/// The root and everything stored that goes with it.
fn members(known: &HashMap<Digest, Known>, root: &Digest) -> Vec<Digest> {
    let mut seen = HashSet::from([*root]);
    let mut members = vec![*root];
    let mut open = vec![*root];
    while let Some(digest) = open.pop() {
        for part in parts(known, &digest) {
            if seen.insert(part) {
                members.push(part);
                open.push(part);
            }
        }
    }
    members
}

impl Unit {
    fn judge(
        &mut self,
        known: &HashMap<Digest, Known>,
        shared: &HashMap<Digest, usize>,
        kept: &HashSet<Digest>,
        now: Timestamp,
    ) {
        let is_own = |digest: &&Digest| {
            shared.get(*digest).is_some_and(|units| *units == 1) && !kept.contains(*digest)
        };
        self.is_pinned = kept.contains(&self.root);
        self.own_bytes = self
            .members
            .iter()
            .filter(is_own)
            .filter_map(|digest| known.get(digest))
            .fold(0, |sum, known| sum.saturating_add(known.bytes));
        // Clients with a full cache of their own ask for manifests only, and others for blobs
        // only: the image is as hot as the hottest thing that belongs to it alone.
        let uses =
            self.members.iter().filter(is_own).filter_map(|digest| Some(known.get(digest)?.used));
        self.used = uses.fold(self.used, |hottest, used| {
            let is_hotter = worth(&used, 1, now) > worth(&hottest, 1, now);
            if is_hotter { used } else { hottest }
        });
        // What it shares may be in use through others.
        let own = self.members.iter().filter(is_own).chain([&self.root]);
        let last = own.filter_map(|digest| Some(known.get(digest)?.used.last()));
        let last = last.max().unwrap_or_else(|| self.used.last());
        self.is_active = last > now || now.since(last) < ACTIVE_FOR;
    }
}

impl Order {
    /// The members of `unit` that would go with it, the largest first and the manifests last. The
    /// unit counts as gone from now on: what only it and gone ones needed goes with the last.
    pub(super) fn take(
        &mut self,
        unit: &Unit,
        known: &HashMap<Digest, Known>,
    ) -> Vec<(Digest, u64)> {
        let mut doomed = Vec::new();
        for member in &unit.members {
            let Some(units) = self.shared.get_mut(member) else { continue };
            *units = units.saturating_sub(1);
            if *units == 0
                && !self.kept.contains(member)
                && let Some(about) = known.get(member)
            {
                doomed.push((about.parts.is_some(), about.bytes, *member));
            }
        }
        doomed.sort_by_key(|(is_manifest, bytes, _)| (*is_manifest, std::cmp::Reverse(*bytes)));
        doomed.into_iter().map(|(_, bytes, digest)| (digest, bytes)).collect()
    }

    /// What could be made free at most, in bytes: everything that no pin keeps.
    pub(super) fn evictable(&self, known: &HashMap<Digest, Known>) -> u64 {
        let free = known.iter().filter(|(digest, _)| !self.kept.contains(*digest));
        free.fold(0, |sum, (_, known)| sum.saturating_add(known.bytes))
    }

    /// The unit stays after all: what it shares is needed again.
    pub(super) fn keep(&mut self, unit: &Unit) {
        for member in &unit.members {
            if let Some(units) = self.shared.get_mut(member) {
                *units += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(name: &str) -> Digest {
        Digest::sha256(name.as_bytes())
    }

    const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000_000_000);

    /// Something used `uses` times, the last time `hours` ago.
    fn known(bytes: u64, hours: u64, uses: u32, parts: Option<&[&str]>) -> Known {
        let last = Timestamp::from_unix_ms(NOW.unix_ms() - hours * 3_600_000);
        let mut used = Use::first(last);
        used.again(last, uses - 1);
        let parts = parts.map(|parts| parts.iter().map(|part| digest(part)).collect());
        Known { bytes, used, stored_at: last, upstream: None, parts }
    }

    fn table(entries: &[(&str, Known)]) -> HashMap<Digest, Known> {
        entries.iter().map(|(name, known)| (digest(name), known.clone())).collect()
    }

    fn roots(order: &Order) -> Vec<Digest> {
        order.units.iter().map(|unit| unit.root).collect()
    }

    #[test]
    fn an_image_goes_whole_and_leaves_what_others_need() {
        let table = table(&[
            ("cold", known(1, 90, 1, Some(&["base", "cold layer", "not stored"]))),
            ("hot", known(1, 1, 50, Some(&["base", "hot layer"]))),
            ("base", known(100, 1, 50, None)),
            ("cold layer", known(30, 90, 1, None)),
            ("hot layer", known(40, 1, 50, None)),
            ("loose", known(5, 50, 1, None)),
        ]);
        let mut order = order(&table, &HashSet::new(), NOW);
        assert_eq!(roots(&order), [digest("cold"), digest("loose"), digest("hot")]);
        let units = order.units.clone();
        assert_eq!(units[0].own_bytes, 31);
        assert_eq!(
            order.take(&units[0], &table),
            [(digest("cold layer"), 30), (digest("cold"), 1)]
        );
        order.take(&units[1], &table);
        order.take(&units[2], &table);
        order.keep(&units[2]);
        let last = order.take(&units[2], &table);
        assert_eq!(last, [(digest("base"), 100), (digest("hot layer"), 40), (digest("hot"), 1)]);
    }

    #[test]
    fn an_index_and_its_platforms_are_one_image() {
        let table = table(&[
            ("index", known(1, 5, 1, Some(&["amd64", "arm64"]))),
            ("amd64", known(1, 200, 1, Some(&["layer"]))),
            ("layer", known(9, 300, 1, None)),
        ]);
        let order = order(&table, &HashSet::new(), NOW);
        assert_eq!(roots(&order), [digest("index")]);
        assert_eq!((order.units[0].members.len(), order.units[0].own_bytes), (3, 11));
    }

    #[test]
    fn pulls_of_only_the_manifest_or_only_the_layer_keep_the_image() {
        let table = table(&[
            ("by manifest", known(1, 1, 9, Some(&["m layer"]))),
            ("m layer", known(10, 300, 1, None)),
            ("by layer", known(1, 300, 1, Some(&["l layer"]))),
            ("l layer", known(10, 1, 9, None)),
            ("unused", known(1, 100, 1, Some(&["u layer"]))),
            ("u layer", known(10, 100, 1, None)),
        ]);
        let order = order(&table, &HashSet::new(), NOW);
        assert_eq!(order.units[0].root, digest("unused"));
    }

    #[test]
    fn pinned_images_and_active_ones_come_last() {
        let table = table(&[
            ("pinned index", known(1, 900, 1, Some(&["platform"]))),
            ("platform", known(1, 900, 1, Some(&["p layer"]))),
            ("p layer", known(10, 900, 1, None)),
            ("active", known(1, 0, 1, Some(&["a layer"]))),
            ("a layer", known(1_000_000, 0, 1, None)),
            ("older but hot", known(1, 30, 500, None)),
        ]);
        // A pin of a platform's manifest keeps the image that it belongs to.
        let order = order(&table, &HashSet::from([digest("platform")]), NOW);
        assert_eq!(
            roots(&order),
            [digest("older but hot"), digest("active"), digest("pinned index")]
        );
        let flags: Vec<_> =
            order.units.iter().map(|unit| (unit.is_active, unit.is_pinned)).collect();
        assert_eq!(flags, [(false, false), (true, false), (false, true)]);
    }

    #[test]
    fn an_index_that_names_what_is_not_its_own_gathers_nothing() {
        let of = |upstream: &str, known: Known| Known {
            upstream: Some(upstream.parse().unwrap()),
            ..known
        };
        let names: Vec<String> = (0..=PLATFORMS_MAX).map(|n| format!("image {n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut entries = vec![
            ("foreign", of("ghcr.io", known(1, 0, 9, Some(&["image 0", "image 1"])))),
            ("heap", of("docker.io", known(1, 0, 9, Some(&names)))),
        ];
        for name in &names {
            entries.push((name, of("docker.io", known(10, 100, 1, Some(&[])))));
        }
        let table = table(&entries);
        let order = order(&table, &HashSet::from([digest("image 0")]), NOW);
        let pinned: Vec<_> = order.units.iter().filter(|unit| unit.is_pinned).collect();
        let indexes = [digest("foreign"), digest("heap")];
        assert_eq!(pinned.len(), 3, "the image, and the indexes themselves");
        assert!(order.units.iter().all(|unit| unit.members.len() == 1));
        assert!(order.units.iter().all(|u| indexes.contains(&u.root) || !u.is_active));
        assert_eq!(order.evictable(&table), 10 * PLATFORMS_MAX as u64);
    }

    #[test]
    fn manifests_that_name_themselves_or_the_same_twice_end() {
        let table = table(&[
            ("a", known(1, 1, 1, Some(&["b", "b", "c"]))),
            ("b", known(1, 1, 1, Some(&["c", "c"]))),
            ("c", known(1, 1, 1, Some(&[]))),
        ]);
        let order = order(&table, &HashSet::new(), NOW);
        assert_eq!(order.units[0].members.len(), 3);
    }
}
