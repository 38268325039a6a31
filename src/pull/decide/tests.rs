//! The table, cell by cell.

use super::*;
use crate::pull::settings::StalePolicy;

/// When the tag was confirmed: far from zero, so that refusals can have come before.
const CONFIRMED: u64 = 1_000_000;

const HOUR: Duration = Duration::from_secs(3600);

const fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix_ms(seconds * 1000)
}

/// A policy whose rows all last differently: 60 s fresh, 30 s more in the background, 400 s on
/// errors, 1 h on 401, 300 s on 429, 200 s on 404.
fn settings() -> TagSettings {
    let lasts = |seconds| Lifetime::For(Duration::from_secs(seconds));
    TagSettings {
        tag_ttl: Duration::from_secs(60),
        absent_ttl: Duration::ZERO,
        stale: StalePolicy {
            on_error: lasts(400),
            on_401: Lifetime::For(HOUR),
            on_429: lasts(300),
            on_404: lasts(200),
            while_revalidate: Duration::from_secs(30),
            pinned: Vec::new(),
        },
        refresh_ahead: Duration::ZERO,
    }
}

/// A tag that was confirmed `age` seconds ago.
fn aged(settings: &TagSettings, age: u64) -> Known<'_> {
    Known {
        settings,
        is_pinned: false,
        confirmed_at: at(CONFIRMED),
        denied_since: None,
        now: at(CONFIRMED + age),
    }
}

const EXHAUSTED: Prospect = Prospect { is_exhausted: true, is_doubted: false };
const DOUBTED: Prospect = Prospect { is_exhausted: false, is_doubted: true };
const FINE: Prospect = Prospect { is_exhausted: false, is_doubted: false };

#[test]
fn how_a_pull_begins() {
    use Opening::{Ask, Serve, ServeIfComplete};
    let settings = settings();
    for (age, prospect, opening) in [
        (0, FINE, Serve(Row::Fresh)),
        (59, EXHAUSTED, Serve(Row::Fresh)),
        (60, FINE, Serve(Row::WhileRevalidate)),
        (89, FINE, Serve(Row::WhileRevalidate)),
        (89, DOUBTED, Ask),
        (90, FINE, Ask),
        (60, EXHAUSTED, ServeIfComplete(Row::On429)),
        (299, EXHAUSTED, ServeIfComplete(Row::On429)),
        (300, EXHAUSTED, Ask),
        (1_000_000, FINE, Ask),
    ] {
        let known = aged(&settings, age);
        assert_eq!(known.opening(prospect), opening, "{age} {prospect:?}");
        let pinned = Known { is_pinned: true, ..known };
        let expected = if age < 60 { Row::Fresh } else { Row::Pinned };
        assert_eq!(pinned.opening(prospect), Serve(expected), "{age} {prospect:?}");
    }
}

#[test]
fn a_confirmation_in_the_future_is_none() {
    let settings = settings();
    // The clock was set back by a day.
    let known = Known { now: at(CONFIRMED - 86_400), ..aged(&settings, 0) };
    assert_eq!((known.left(Row::Fresh), known.left(Row::WhileRevalidate)), (None, None));
    assert_eq!(known.opening(FINE), Opening::Ask);
    // But if upstream fails, what is known is better than nothing.
    let decision = known.after_failure(StaleReason::Unreachable, true);
    assert_eq!(decision, Decision::Served(Row::OnError));
}

#[test]
fn how_long_a_failure_is_bridged() {
    let settings = settings();
    for (reason, row, last) in [
        (StaleReason::Unreachable, Row::OnError, 399),
        (StaleReason::UpstreamError, Row::OnError, 399),
        (StaleReason::RateLimited, Row::On429, 299),
        (StaleReason::Gone, Row::On404, 199),
    ] {
        for age in [60, last] {
            let known = aged(&settings, age);
            assert_eq!(known.after_failure(reason, true), Decision::Served(row), "{age}");
            let incomplete = known.after_failure(reason, false);
            assert_eq!(incomplete, Decision::Refused(Row::Incomplete), "{age} {reason:?}");
        }
        for complete in [false, true] {
            let after = aged(&settings, last + 1).after_failure(reason, complete);
            assert_eq!(after, Decision::Refused(row), "{reason:?}");
        }
    }
}

#[test]
fn lost_access_ends_everything_an_hour_after_the_first_refusal() {
    let settings = settings();
    let reasons = StaleReason::ALL;
    // The refusal came 1 s, 1 h less 1 s, and 1 h ago, of a tag that was confirmed 150 s ago: the
    // other rows have not run out.
    for (refused, serves) in [(1, true), (3599, true), (3600, false)] {
        let known = aged(&settings, 150);
        let denied_since = Some(Timestamp::from_unix_ms(known.now.unix_ms() - refused * 1000));
        let known = Known { denied_since, is_pinned: true, ..known };
        for reason in reasons {
            let row = if serves { reason.row() } else { Row::On401 };
            let expected = if serves { Decision::Served(row) } else { Decision::Refused(row) };
            assert_eq!(known.after_failure(reason, true), expected, "{refused} {reason:?}");
        }
        let opening = if serves { Opening::Serve(Row::Pinned) } else { Opening::Ask };
        assert_eq!(known.opening(EXHAUSTED), opening, "{refused}");
        assert_eq!(known.has_lost_access(), !serves);
    }
    // Age alone does not matter where access is refused.
    let old = aged(&settings, 1_000_000);
    assert_eq!(old.after_failure(StaleReason::Denied, true), Decision::Served(Row::On401));
}

#[test]
fn never_and_forever() {
    let mut settings = settings();
    let every = |lifetime| StalePolicy {
        on_error: lifetime,
        on_401: lifetime,
        on_429: lifetime,
        on_404: lifetime,
        while_revalidate: Duration::ZERO,
        pinned: Vec::new(),
    };
    settings.stale = every(Lifetime::NEVER);
    for reason in StaleReason::ALL {
        let known = aged(&settings, 0);
        assert_eq!(known.after_failure(reason, true), Decision::Refused(reason.row()));
    }
    assert_eq!(aged(&settings, 60).opening(EXHAUSTED), Opening::Ask);
    assert_eq!(aged(&settings, 60).opening(FINE), Opening::Ask);
    settings.stale = every(Lifetime::Forever);
    for reason in StaleReason::ALL {
        let known = Known { denied_since: Some(at(0)), ..aged(&settings, 1_000_000_000) };
        assert_eq!(known.after_failure(reason, true), Decision::Served(reason.row()));
        assert_eq!(known.left(reason.row()), Some(Lifetime::Forever));
    }
}

#[test]
fn what_is_left_is_the_shorter_of_the_rows_and_of_access() {
    let settings = settings();
    let known = aged(&settings, 100);
    let left = |known: &Known<'_>, row| match known.left(row) {
        Some(Lifetime::For(left)) => left.as_secs(),
        other => panic!("{row:?}: {other:?}"),
    };
    assert_eq!(left(&known, Row::OnError), 300);
    assert_eq!(left(&known, Row::On404), 100);
    assert_eq!(left(&known, Row::On401), 3600);
    let denied_since = Some(Timestamp::from_unix_ms(known.now.unix_ms() - 3550 * 1000));
    let known = Known { denied_since, ..known };
    assert_eq!(left(&known, Row::OnError), 50);
    assert_eq!(left(&known, Row::On401), 50);
}

#[test]
fn a_confirmation_from_the_future_is_not_fresh() {
    let settings = settings();
    let known = Known { now: at(CONFIRMED - 1), ..aged(&settings, 0) };
    assert_eq!(known.left(Row::Fresh), None);
    assert_eq!(known.opening(DOUBTED), Opening::Ask);
    assert_eq!(
        known.after_failure(StaleReason::Gone, true),
        Decision::Served(Row::On404),
        "an old answer is better than none"
    );
}

#[test]
fn a_tag_is_fresh_for_its_ttl_only() {
    let ttl = Duration::from_secs(60);
    assert!(is_fresh(at(100), at(100), ttl));
    assert!(is_fresh(at(100), at(159), ttl));
    assert!(!is_fresh(at(100), at(160), ttl));
    assert!(!is_fresh(at(100), at(99), ttl), "the clock was set back");
    assert!(!is_fresh(at(100), at(100), Duration::ZERO));
}

#[test]
fn rows_have_names_of_their_own() {
    let rows = [Row::WITHOUT_ASKING.as_slice(), &Row::FAILING, &[Row::Incomplete]].concat();
    let names: std::collections::HashSet<_> = rows.iter().map(|row| row.as_str()).collect();
    assert_eq!(names.len(), rows.len());
    assert!(StaleReason::ALL.iter().all(|reason| Row::FAILING.contains(&reason.row())));
}
