//! What every [`MetaStore`] does. Run on each implementation by its tests.

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::future::join_all;

use super::{
    DOCUMENTS_PER_SCOPE_MAX, Document, DocumentKind, KeepingStore, Link, LinkKind, MetaStore, Pin,
    TAG_HISTORY_MAX, TagRecord, UsageRecord,
};
use crate::clock::Timestamp;
use crate::oci::{Algorithm, Digest, Reference, Tag};
use crate::scope::Scope;

/// All of the suite, each part in scopes of its own.
pub(crate) async fn all(store: &dyn MetaStore) {
    links_belong_to_a_scope(store).await;
    links_keep_what_is_known(store).await;
    links_come_in_batches(store).await;
    links_are_forgotten(store).await;
    tag_history_has_the_last_put_first(store).await;
    tag_history_survives_a_wrong_clock(store).await;
    tag_history_is_bounded(store).await;
    tags_page_in_byte_order(store).await;
    what_there_is_pages_in_order(store).await;
    all_tags_page_in_order(store).await;
    tags_are_forgotten(store).await;
    scopes_are_forgotten(store).await;
    links_are_found_wherever_they_are(store).await;
    refusals_keep_their_beginning(store).await;
    documents_are_replaced(store).await;
    documents_are_bounded(store).await;
    extremes_are_harmless(store).await;
    concurrent_writes_all_land(store).await;
    store.probe().await.unwrap();
    store.probe().await.unwrap();
}

/// A scope of the given repository.
pub(crate) fn scope(repo: &str) -> Scope {
    Scope { upstream: "docker.io".parse().unwrap(), repo: repo.parse().unwrap() }
}

/// A digest of nothing in particular.
pub(crate) fn digest(n: usize) -> Digest {
    Digest::sha256(&n.to_le_bytes())
}

/// A link of which nothing but its kind is known.
pub(crate) fn bare(kind: LinkKind) -> Link {
    Link { size: None, media_type: None, kind }
}

/// A record of which nothing but digest and time are known.
pub(crate) fn record(digest: Digest, ms: u64) -> TagRecord {
    TagRecord { digest, media_type: None, size: None, confirmed_at: Timestamp::from_unix_ms(ms) }
}

fn tag(text: &str) -> Tag {
    text.parse().unwrap()
}

async fn links_belong_to_a_scope(store: &dyn MetaStore) {
    let link = Link {
        size: Some(42),
        media_type: Some("application/vnd.oci.image.layer.v1.tar+gzip".to_owned()),
        kind: LinkKind::Blob,
    };
    let here = scope("links/here");
    let other_repo = scope("links/there");
    let other_upstream = Scope { upstream: "ghcr.io".parse().unwrap(), ..here.clone() };
    store.put_links(&here, &[(digest(1), link.clone())]).await.unwrap();
    assert_eq!(store.link(&here, &digest(1)).await.unwrap(), Some(link));
    assert_eq!(store.link(&here, &digest(2)).await.unwrap(), None);
    assert_eq!(store.link(&other_repo, &digest(1)).await.unwrap(), None);
    assert_eq!(store.link(&other_upstream, &digest(1)).await.unwrap(), None);
}

async fn links_keep_what_is_known(store: &dyn MetaStore) {
    let scope = scope("links/known");
    let full = Link { size: Some(1), media_type: Some("a/b".to_owned()), kind: LinkKind::Manifest };
    let other = Link { size: Some(2), media_type: None, kind: LinkKind::Blob };
    let steps = [
        (bare(LinkKind::Blob), bare(LinkKind::Blob)),
        (full.clone(), full.clone()),
        (bare(LinkKind::Blob), full.clone()),
        (other, Link { size: Some(2), ..full }),
    ];
    for (put, expected) in steps {
        store.put_links(&scope, &[(digest(1), put)]).await.unwrap();
        assert_eq!(store.link(&scope, &digest(1)).await.unwrap(), Some(expected));
    }
}

async fn links_come_in_batches(store: &dyn MetaStore) {
    const LINKS: usize = 2_000;
    let scope = scope("links/batch");
    store.put_links(&scope, &[]).await.unwrap();
    let mut links: Vec<_> = (0..LINKS).map(|n| (digest(n), bare(LinkKind::Blob))).collect();
    // A manifest may name the same layer twice.
    links.push((digest(0), Link { size: Some(7), ..bare(LinkKind::Blob) }));
    store.put_links(&scope, &links).await.unwrap();
    for n in [0, 1, LINKS - 1] {
        assert!(store.link(&scope, &digest(n)).await.unwrap().is_some());
    }
    assert_eq!(store.link(&scope, &digest(0)).await.unwrap().unwrap().size, Some(7));
}

async fn links_are_forgotten(store: &dyn MetaStore) {
    let (scope, other) = (scope("links/gone"), scope("links/stays"));
    let sha512 = Digest::of(Algorithm::Sha512, b"x");
    for scope in [&scope, &other] {
        store.put_links(scope, &[(sha512, bare(LinkKind::Blob))]).await.unwrap();
    }
    assert!(store.remove_link(&scope, &sha512).await.unwrap());
    assert!(!store.remove_link(&scope, &sha512).await.unwrap());
    assert_eq!(store.link(&scope, &sha512).await.unwrap(), None);
    assert!(store.link(&other, &sha512).await.unwrap().is_some());
}

async fn tag_history_has_the_last_put_first(store: &dyn MetaStore) {
    let scope = scope("tags/history");
    let latest = tag("latest");
    assert!(store.tag_history(&scope, &latest).await.unwrap().is_empty());
    let first =
        TagRecord { media_type: Some("m/t".to_owned()), size: Some(5), ..record(digest(1), 100) };
    store.put_tag(&scope, &latest, &first).await.unwrap();
    store.put_tag(&scope, &latest, &record(digest(2), 200)).await.unwrap();
    assert_eq!(
        store.tag_history(&scope, &latest).await.unwrap(),
        [record(digest(2), 200), first.clone()]
    );
    // Back to the first, of which the new record says less.
    store.put_tag(&scope, &latest, &record(digest(1), 300)).await.unwrap();
    let first = TagRecord { confirmed_at: Timestamp::from_unix_ms(300), ..first };
    assert_eq!(store.tag_history(&scope, &latest).await.unwrap(), [first, record(digest(2), 200)]);
    assert!(store.tag_history(&scope, &tag("Latest")).await.unwrap().is_empty());
}

async fn tag_history_survives_a_wrong_clock(store: &dyn MetaStore) {
    let scope = scope("tags/clock");
    let latest = tag("latest");
    store.put_tag(&scope, &latest, &record(digest(1), 9_000_000)).await.unwrap();
    store.put_tag(&scope, &latest, &record(digest(2), 1_000)).await.unwrap();
    assert_eq!(
        store.tag_history(&scope, &latest).await.unwrap(),
        [record(digest(2), 1_000), record(digest(1), 9_000_000)]
    );
    store.put_tag(&scope, &latest, &record(digest(1), 2_000)).await.unwrap();
    assert_eq!(
        store.tag_history(&scope, &latest).await.unwrap(),
        [record(digest(1), 2_000), record(digest(2), 1_000)]
    );
}

async fn tag_history_is_bounded(store: &dyn MetaStore) {
    const PUTS: usize = 3 * TAG_HISTORY_MAX;
    let scope = scope("tags/bounded");
    let busy = tag("busy");
    store.put_tag(&scope, &tag("calm"), &record(digest(0), 1)).await.unwrap();
    for n in 0..PUTS {
        store.put_tag(&scope, &busy, &record(digest(n), 1)).await.unwrap();
    }
    let expected: Vec<_> =
        (0..PUTS).rev().take(TAG_HISTORY_MAX).map(|n| record(digest(n), 1)).collect();
    assert_eq!(store.tag_history(&scope, &busy).await.unwrap(), expected);
    assert_eq!(store.tag_history(&scope, &tag("calm")).await.unwrap().len(), 1);
}

async fn tags_page_in_byte_order(store: &dyn MetaStore) {
    let scope = scope("tags/paged");
    let mut expected = Vec::new();
    for text in ["b", "a", "B", "_", "1.0", "1.0-x", "10", "a.b", "a-b", "z"] {
        expected.push(tag(text));
        for n in 0..3 {
            store.put_tag(&scope, &tag(text), &record(digest(n), 1)).await.unwrap();
        }
    }
    expected.sort_by(|a, b| a.as_str().as_bytes().cmp(b.as_str().as_bytes()));
    assert_eq!(store.tags(&scope, None, 1000).await.unwrap(), expected);
    assert_eq!(store.tags(&scope, None, u32::MAX).await.unwrap(), expected);
    assert!(store.tags(&scope, None, 0).await.unwrap().is_empty());
    let mut paged: Vec<Tag> = Vec::new();
    loop {
        let page = store.tags(&scope, paged.last().map(Tag::as_str), 3).await.unwrap();
        let last = page.len() < 3;
        paged.extend(page);
        if last {
            break;
        }
    }
    assert_eq!(paged, expected);
    // A client may say anything, also what is no tag.
    let after = store.tags(&scope, Some("a/~\u{fc}'"), 1000).await.unwrap();
    assert_eq!(after, [tag("b"), tag("z")]);
    assert!(store.tags(&self::scope("tags/none"), None, 10).await.unwrap().is_empty());
}

async fn what_there_is_pages_in_order(store: &dyn MetaStore) {
    let upstream = |name: &str, repo: &str| Scope {
        upstream: name.parse().unwrap(),
        repo: repo.parse().unwrap(),
    };
    // A name of its own, because other parts of the suite leave scopes behind.
    let with = [upstream("zz.example", "a/b"), upstream("zz.example", "b"), upstream("zzz", "a")];
    let manifests: Vec<_> = (0..5).map(digest).collect();
    for scope in &with {
        let links: Vec<_> = manifests.iter().map(|d| (*d, bare(LinkKind::Manifest))).collect();
        store.put_links(scope, &links).await.unwrap();
        store.put_links(scope, &[(digest(9), bare(LinkKind::Blob))]).await.unwrap();
    }
    // Neither named nor proven blobs make a repository one that has an image.
    let without = upstream("zz.example", "c");
    for kind in [LinkKind::Named, LinkKind::Blob] {
        store.put_links(&without, &[(digest(8), bare(kind))]).await.unwrap();
    }
    let before = upstream("zz.example", "a");
    assert_eq!(store.scopes(Some(&before), 10).await.unwrap(), with);
    assert_eq!(store.scopes(Some(&before), 2).await.unwrap(), with[..2]);
    assert_eq!(store.scopes(Some(&with[0]), 1).await.unwrap(), with[1..2]);
    assert_eq!(store.scopes(Some(&with[2]), 9).await.unwrap(), []);
    assert!(store.scopes(None, 1000).await.unwrap().ends_with(&with));

    let mut sorted = manifests;
    sorted.sort_unstable();
    assert_eq!(store.manifests(&with[0], None, 9).await.unwrap(), sorted);
    assert_eq!(store.manifests(&with[0], None, 2).await.unwrap(), sorted[..2]);
    assert_eq!(store.manifests(&with[0], Some(&sorted[1]), 9).await.unwrap(), sorted[2..]);
    assert_eq!(store.manifests(&without, None, 9).await.unwrap(), []);
}

async fn all_tags_page_in_order(store: &dyn MetaStore) {
    let mut expected = Vec::new();
    for (upstream, repo) in [("zz.io", "b"), ("zz.io", "b/c"), ("zz.io", "b-d"), ("zz.io:1", "a")] {
        let scope = Scope { upstream: upstream.parse().unwrap(), repo: repo.parse().unwrap() };
        for text in ["v2", "V1", "v1"] {
            store.put_tag(&scope, &tag(text), &record(digest(1), 1)).await.unwrap();
            let latest = TagRecord { size: Some(3), ..record(digest(2), 2) };
            store.put_tag(&scope, &tag(text), &latest).await.unwrap();
            expected.push((scope.clone(), tag(text), latest));
        }
    }
    expected.sort_by(|a, b| {
        let key = |(scope, tag, _): &(Scope, Tag, TagRecord)| {
            (scope.upstream.to_string(), scope.repo.to_string(), tag.to_string())
        };
        key(a).cmp(&key(b))
    });
    // Everything before it is of other parts of the suite.
    let before = Scope { upstream: "zz".parse().unwrap(), repo: "a".parse().unwrap() };
    let all = store.list_tags(Some((&before, "")), u32::MAX).await.unwrap();
    assert_eq!(all, expected);
    let mut paged: Vec<(Scope, Tag, TagRecord)> = Vec::new();
    loop {
        let last = paged.last().map(|(scope, tag, _)| (scope, tag.as_str()));
        let page = store.list_tags(Some(last.unwrap_or((&before, ""))), 5).await.unwrap();
        let end = page.len() < 5;
        paged.extend(page);
        if end {
            break;
        }
    }
    assert_eq!(paged, expected);
    assert!(store.list_tags(None, 0).await.unwrap().is_empty());
    let first = store.list_tags(None, 1).await.unwrap();
    assert_ne!(first[0].0.upstream.as_str(), "zz.io", "from the very beginning");
}

async fn tags_are_forgotten(store: &dyn MetaStore) {
    let scope = scope("tags/forgotten");
    for (text, n) in [("a", 1), ("a", 2), ("b", 1)] {
        store.put_tag(&scope, &tag(text), &record(digest(n), 1)).await.unwrap();
    }
    assert!(store.remove_tag(&scope, &tag("a")).await.unwrap());
    assert!(!store.remove_tag(&scope, &tag("a")).await.unwrap());
    assert!(store.tag_history(&scope, &tag("a")).await.unwrap().is_empty());
    assert_eq!(store.tags(&scope, None, 10).await.unwrap(), [tag("b")]);
}

async fn scopes_are_forgotten(store: &dyn MetaStore) {
    let (gone, stays) = (scope("scopes/gone"), scope("scopes/stays"));
    let at = Timestamp::from_unix_ms(1);
    for scope in [&gone, &stays] {
        let links = [(digest(1), bare(LinkKind::Blob)), (digest(2), bare(LinkKind::Named))];
        store.put_links(scope, &links).await.unwrap();
        store.put_tag(scope, &tag("t"), &record(digest(3), 1)).await.unwrap();
        store.set_denied(scope, Some(at)).await.unwrap();
        let kind = DocumentKind::Referrers;
        store.put_document(scope, kind, "k", &document("x", 1)).await.unwrap();
    }
    let mut had = store.forget_scope(&gone).await.unwrap();
    had.sort();
    let mut expected = vec![digest(1), digest(2)];
    expected.sort();
    assert_eq!(had, expected);
    assert!(store.forget_scope(&gone).await.unwrap().is_empty());
    for (scope, there) in [(&gone, false), (&stays, true)] {
        assert_eq!(store.link(scope, &digest(1)).await.unwrap().is_some(), there);
        assert_eq!(!store.tag_history(scope, &tag("t")).await.unwrap().is_empty(), there);
        assert_eq!(store.denied_since(scope).await.unwrap().is_some(), there);
        let document = store.document(scope, DocumentKind::Referrers, "k").await.unwrap();
        assert_eq!(document.is_some(), there);
    }
}

async fn links_are_found_wherever_they_are(store: &dyn MetaStore) {
    let (a, b) = (scope("linked/a"), scope("linked/b"));
    let n = |n: usize| digest(1_000_000 + n);
    store.put_links(&a, &[(n(1), bare(LinkKind::Blob))]).await.unwrap();
    store
        .put_links(&b, &[(n(1), bare(LinkKind::Blob)), (n(2), bare(LinkKind::Named))])
        .await
        .unwrap();
    let all: Vec<_> = (0..2_000).map(n).collect();
    let linked = store.linked(&all).await.unwrap();
    assert_eq!(linked, HashSet::from([n(1), n(2)]));
    store.remove_link(&a, &n(1)).await.unwrap();
    assert!(store.linked(&all).await.unwrap().contains(&n(1)), "another has it still");
    assert!(store.linked(&[]).await.unwrap().is_empty());
}

async fn refusals_keep_their_beginning(store: &dyn MetaStore) {
    let (scope, other) = (scope("denied/here"), scope("denied/there"));
    let at = Timestamp::from_unix_ms;
    assert_eq!(store.denied_since(&scope).await.unwrap(), None);
    store.set_denied(&scope, None).await.unwrap();
    for (put, expected) in [(200, 200), (300, 200), (100, 100)] {
        store.set_denied(&scope, Some(at(put))).await.unwrap();
        assert_eq!(store.denied_since(&scope).await.unwrap(), Some(at(expected)));
    }
    assert_eq!(store.denied_since(&other).await.unwrap(), None);
    store.set_denied(&scope, None).await.unwrap();
    assert_eq!(store.denied_since(&scope).await.unwrap(), None);
    store.set_denied(&scope, Some(at(400))).await.unwrap();
    assert_eq!(store.denied_since(&scope).await.unwrap(), Some(at(400)));
}

fn document(text: &'static str, ms: u64) -> Document {
    Document { bytes: Bytes::from_static(text.as_bytes()), fetched_at: Timestamp::from_unix_ms(ms) }
}

async fn documents_are_replaced(store: &dyn MetaStore) {
    let scope = scope("documents/replaced");
    let kind = DocumentKind::Referrers;
    assert_eq!(store.document(&scope, kind, "k").await.unwrap(), None);
    for document in [document("one", 1), document("", 2), document("three", 1)] {
        store.put_document(&scope, kind, "k", &document).await.unwrap();
        assert_eq!(store.document(&scope, kind, "k").await.unwrap(), Some(document));
    }
    assert_eq!(store.document(&scope, kind, "K").await.unwrap(), None);
    assert_eq!(store.document(&scope, DocumentKind::TagList, "k").await.unwrap(), None);
    assert_eq!(store.document(&self::scope("documents/other"), kind, "k").await.unwrap(), None);
}

async fn documents_are_bounded(store: &dyn MetaStore) {
    let scope = scope("documents/bounded");
    let kind = DocumentKind::Referrers;
    store.put_document(&scope, DocumentKind::TagList, "0", &document("", 0)).await.unwrap();
    for n in 0..=DOCUMENTS_PER_SCOPE_MAX {
        let ms = 1_000 + n as u64;
        store.put_document(&scope, kind, &n.to_string(), &document("x", ms)).await.unwrap();
    }
    let kept = |key: &'static str| async move {
        store.document(&self::scope("documents/bounded"), kind, key).await.unwrap().is_some()
    };
    assert!(!kept("0").await, "the oldest went");
    assert!(kept("1").await);
    // The newest put stays also if it was fetched before all the others.
    store.put_document(&scope, kind, "old", &document("x", 1)).await.unwrap();
    assert!(kept("old").await);
    assert!(!kept("1").await);
    assert!(kept("2").await);
    let other = store.document(&scope, DocumentKind::TagList, "0").await.unwrap();
    assert!(other.is_some(), "each kind has its own bound");
}

async fn extremes_are_harmless(store: &dyn MetaStore) {
    let scope = scope("extremes");
    let link = Link { size: Some(u64::MAX), ..bare(LinkKind::Blob) };
    store.put_links(&scope, &[(digest(1), link)]).await.unwrap();
    assert!(store.link(&scope, &digest(1)).await.unwrap().is_some());
    store.put_tag(&scope, &tag("t"), &record(digest(1), u64::MAX)).await.unwrap();
    assert_eq!(store.tag_history(&scope, &tag("t")).await.unwrap().len(), 1);
    let quoted = "'; DROP TABLE link; --\u{0}\u{1f}";
    store.put_document(&scope, DocumentKind::TagList, quoted, &document("x", 1)).await.unwrap();
    assert!(store.document(&scope, DocumentKind::TagList, quoted).await.unwrap().is_some());
}

async fn concurrent_writes_all_land(store: &dyn MetaStore) {
    const WRITERS: usize = 200;
    let scopes: Vec<_> = (0..7).map(|n| scope(&format!("herd/{n}"))).collect();
    join_all((0..WRITERS).map(|n| {
        let scope = &scopes[n % scopes.len()];
        async move {
            store.put_links(scope, &[(digest(n), bare(LinkKind::Blob))]).await.unwrap();
            store.put_tag(scope, &tag(&format!("t{n}")), &record(digest(n), 1)).await.unwrap();
            // What was written is read, whichever connection reads.
            assert!(store.link(scope, &digest(n)).await.unwrap().is_some());
        }
    }))
    .await;
    for n in 0..WRITERS {
        let scope = &scopes[n % scopes.len()];
        assert_eq!(
            store.tag_history(scope, &tag(&format!("t{n}"))).await.unwrap(),
            [record(digest(n), 1)]
        );
    }
}

/// What every [`KeepingStore`] does.
pub(crate) async fn keeping(store: &(impl KeepingStore + MetaStore)) {
    usage_pages_is_replaced_and_forgotten(store).await;
    parts_come_back_as_they_were(store).await;
    pins_are_a_set(store).await;
    links_are_found_by_digest(store).await;
}

fn usage(ms: u64, heat: f32, upstream: Option<&str>) -> UsageRecord {
    UsageRecord {
        last: Timestamp::from_unix_ms(ms),
        heat,
        stored_at: Timestamp::from_unix_ms(ms / 2),
        upstream: upstream.map(|name| name.parse().unwrap()),
    }
}

async fn usage_pages_is_replaced_and_forgotten(store: &dyn KeepingStore) {
    let mut records: Vec<_> =
        (0..25).map(|n| (digest(n), usage(n as u64, 1.5, Some("ghcr.io")))).collect();
    store.put_usage(&records).await.unwrap();
    records[3].1 = usage(77, 0.25, None);
    store.put_usage(&records[3..4]).await.unwrap();
    store.put_usage(&[]).await.unwrap();
    records.sort_by_key(|(digest, _)| *digest);
    let mut seen = Vec::new();
    loop {
        let after = seen.last().map(|(digest, _)| *digest);
        let page = store.usage(after.as_ref(), 10).await.unwrap();
        let last = page.len() < 10;
        seen.extend(page);
        if last {
            break;
        }
    }
    assert_eq!(seen, records);
    let all: Vec<_> = records.iter().map(|(digest, _)| *digest).collect();
    store.forget_usage(&all[1..]).await.unwrap();
    assert_eq!(store.usage(None, 100).await.unwrap(), records[..1]);
}

async fn parts_come_back_as_they_were(store: &dyn KeepingStore) {
    let children = vec![digest(900), digest(2), digest(900)];
    store.put_parts(&digest(800), &[digest(1)]).await.unwrap();
    store.put_parts(&digest(800), &children).await.unwrap();
    store.put_parts(&digest(801), &[]).await.unwrap();
    let mut expected = vec![(digest(800), children), (digest(801), Vec::new())];
    expected.sort();
    assert_eq!(store.parts(None, 10).await.unwrap(), expected);
    assert_eq!(store.parts(Some(&expected[0].0), 10).await.unwrap(), expected[1..]);
    store.forget_usage(&[digest(800)]).await.unwrap();
    assert_eq!(store.parts(None, 10).await.unwrap(), [(digest(801), Vec::new())]);
}

async fn pins_are_a_set(store: &dyn KeepingStore) {
    let by_tag = Pin { scope: scope("pins/a"), reference: "latest".parse().unwrap() };
    let by_digest = Pin { scope: scope("pins/a"), reference: Reference::Digest(digest(5)) };
    assert!(store.put_pin(&by_tag).await.unwrap());
    assert!(store.put_pin(&by_digest).await.unwrap());
    assert!(!store.put_pin(&by_tag).await.unwrap());
    let pins = store.pins().await.unwrap();
    assert!(pins.len() == 2 && pins.contains(&by_tag) && pins.contains(&by_digest), "{pins:?}");
    assert!(store.remove_pin(&by_tag).await.unwrap());
    assert!(!store.remove_pin(&by_tag).await.unwrap());
    assert_eq!(store.pins().await.unwrap(), [by_digest]);
}

async fn links_are_found_by_digest(store: &(impl KeepingStore + MetaStore)) {
    let linked = digest(70_001);
    assert!(!store.is_linked(&linked).await.unwrap());
    store.put_links(&scope("linked/a"), &[(linked, bare(LinkKind::Named))]).await.unwrap();
    assert!(store.is_linked(&linked).await.unwrap());
    store.remove_link(&scope("linked/a"), &linked).await.unwrap();
    assert!(!store.is_linked(&linked).await.unwrap());
}
