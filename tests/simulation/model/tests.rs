//! Every rule is seen to fire, on observations that are made up.

use super::*;
use crate::weather::Fault;

fn scope(name: &str) -> Scope {
    Scope { upstream: "sim.example".parse().unwrap(), repo: name.parse().unwrap() }
}

fn digest() -> Digest {
    Digest::sha256(b"content")
}

fn got() -> Got {
    Got { digest: digest(), right: true, complete: true, bounded: false, whole: true }
}

fn sent(span: Range<u64>, fault: Option<Fault>) -> Transfer {
    Transfer { digest: digest(), sent: span, fault }
}

#[track_caller]
fn breaks(rule: Rule, result: Result<(), Broken>) {
    assert_eq!(result.unwrap_err().0, rule);
}

#[test]
fn wrong_bytes_never_complete_an_answer_that_reaches_the_end() {
    let mut model = Model::default();
    let wrong = Got { right: false, ..got() };
    for lied in [false, true] {
        breaks(Rule::OnlyVerifiedCompletes, model.blob(&scope("a"), &wrong, lied));
    }
    let open_ended = Got { whole: false, ..wrong };
    breaks(Rule::OnlyVerifiedCompletes, model.blob(&scope("a"), &open_ended, true));
    assert!(!model.is_cached(&scope("a"), [digest()]));
}

#[test]
fn wrong_bytes_come_only_from_an_upstream_that_sent_them() {
    let mut model = Model::default();
    let bounded = Got { right: false, bounded: true, whole: false, ..got() };
    breaks(Rule::RightBytes, model.blob(&scope("a"), &bounded, false));
    assert_eq!(model.blob(&scope("a"), &bounded, true), Ok(()));
    let broke_off = Got { right: false, complete: false, ..got() };
    breaks(Rule::RightBytes, model.blob(&scope("a"), &broke_off, false));
    assert_eq!(model.blob(&scope("a"), &broke_off, true), Ok(()));
}

#[test]
fn a_manifest_is_one_that_was_meant() {
    let mut model = Model::default();
    let (scope, tag) = (scope("a"), "latest".parse().unwrap());
    let (by_tag, by_digest) = (Reference::Tag(tag), Reference::Digest(digest()));
    let Reference::Tag(tag) = &by_tag else { unreachable!() };
    let (whole, other) = ((&digest(), true), Digest::sha256(b"other"));
    let wrong = model.manifest(&scope, &by_digest, (&other, true), |_, _| true);
    breaks(Rule::RightManifest, wrong);
    breaks(Rule::RightManifest, model.manifest(&scope, &by_tag, whole, |_, _| false));
    assert_eq!(model.manifest(&scope, &by_tag, (&digest(), false), |_, _| true), Ok(()));
    assert_eq!(model.answers(&scope, tag), BTreeSet::new());
    assert_eq!(model.manifest(&scope, &by_tag, whole, |_, _| true), Ok(()));
    assert_eq!(model.answers(&scope, tag), BTreeSet::from([digest()]));
}

#[test]
fn cached_is_what_was_served_whole_to_that_repository_and_is_stored() {
    let mut model = Model::default();
    let cached = |model: &Model, name| model.is_cached(&scope(name), [digest()]);
    assert_eq!(model.blob(&scope("a"), &got(), false), Ok(()));
    assert!(!cached(&model, "a"), "the store does not have it");
    model.stored(&digest());
    assert!(cached(&model, "a"));
    assert!(!cached(&model, "b"), "of another repository nothing is known");
    model.evicted(&digest());
    model.stored(&digest());
    assert!(!cached(&model, "a"), "nobody had it since it was evicted");
    for part in [Got { whole: false, ..got() }, Got { complete: false, ..got() }] {
        assert_eq!(model.blob(&scope("a"), &part, false), Ok(()));
        assert!(!cached(&model, "a"), "{part:?}");
    }
}

#[test]
fn no_byte_is_transferred_twice_without_a_reason() {
    let judge = |model: &Model, transfers: &[Transfer]| model.transfers(&digest(), 100, transfers);
    let mut model = Model::default();
    assert_eq!(judge(&model, &[sent(50..100, None), sent(0..50, None)]), Ok(()));
    breaks(Rule::TransferredOnce, judge(&model, &[sent(0..100, None), sent(99..100, None)]));
    let lie = Some(Fault::Flipped(3));
    // What came before it is lost with it.
    let parts = |n| {
        let mut parts = vec![sent(0..99, None), sent(0..100, lie)];
        parts.extend(vec![sent(0..100, None); n]);
        parts
    };
    assert_eq!(judge(&model, &parts(1)), Ok(()));
    breaks(Rule::TransferredOnce, judge(&model, &parts(2)));
    model.evicted(&digest());
    assert_eq!(judge(&model, &[sent(0..100, None), sent(0..100, None)]), Ok(()));
    model.crashed();
    assert_eq!(judge(&model, &vec![sent(0..100, None); 3]), Ok(()));
    breaks(Rule::TransferredOnce, judge(&model, &vec![sent(0..100, None); 4]));
}

#[test]
fn what_breaks_off_is_continued() {
    let model = Model::default();
    let cut = [sent(0..60, Some(Fault::Reset(60))), sent(0..100, None)];
    breaks(Rule::TransferredOnce, model.transfers(&digest(), 100, &cut));
    let continued = [sent(0..60, Some(Fault::Reset(60))), sent(60..100, None)];
    assert_eq!(model.transfers(&digest(), 100, &continued), Ok(()));
}

#[test]
fn overlaps_are_counted_in_bytes() {
    assert_eq!(overlap(vec![]), 0);
    assert_eq!(overlap(vec![5..10, 0..5]), 0);
    assert_eq!(overlap(vec![0..10, 2..4, 3..5]), 4);
}

#[test]
fn what_is_left_is_found() {
    assert_eq!(nothing_left(&Left::default()), Ok(()));
    let none = Left::default;
    for left in [
        Left { fills: 1, ..none() },
        Left { followers: 1, ..none() },
        Left { reserved: 1, ..none() },
        Left { useless: vec![digest()], ..none() },
        Left { tasks: BTreeMap::from([("fill".to_owned(), 1)]), ..none() },
        Left { limits: BTreeMap::from([("followers".to_owned(), 1)]), ..none() },
    ] {
        breaks(Rule::NothingLeft, nothing_left(&left));
    }
}

#[test]
fn what_takes_for_ever_what_fails_and_what_panics_is_found() {
    assert_eq!(in_time("a pull", Some(1)), Ok(1));
    breaks(Rule::Ends, in_time("a pull", None));
    assert_eq!(failed(false, false, "upstream is gone"), Ok(()));
    breaks(Rule::CachedIsServed, failed(true, false, "upstream is gone"));
    breaks(Rule::CachedIsServed, failed(true, true, "upstream is well"));
    breaks(Rule::Recovers, failed(false, true, "upstream is well"));
    assert_eq!(no_panics(0), Ok(()));
    breaks(Rule::NoPanic, no_panics(1));
}
