//! How old a tag may be: the rows of the table for one tag, and which of them a pull goes by.

use crate::oci::Digest;
use crate::pull::decide::{Decision, Known, Opening, Prospect, Row};
use crate::pull::outcome::StaleReason;
use crate::pull::resolve::rough;
use crate::pull::settings::Lifetime;

/// How old a tag may be, row by row.
#[derive(Clone, Debug)]
pub struct Staleness {
    /// What a pull gets now, and by which row; `None` if upstream is asked.
    pub now: Option<Decision>,
    /// Every row: those that need no upstream, then its failures.
    pub rows: Vec<RowState>,
}

/// What one row does for a tag.
#[derive(Clone, Debug)]
pub struct RowState {
    /// Which.
    pub row: Row,
    /// What a pull would get by it.
    pub decision: Decision,
    /// For how much longer it serves the tag, if it does.
    pub left: Option<Lifetime>,
    /// In words.
    pub text: String,
}

/// One meaning of the tag, the latest first.
#[derive(Clone, Debug)]
pub(super) struct Meaning<'a> {
    pub(super) known: Known<'a>,
    pub(super) digest: Digest,
    pub(super) is_complete: bool,
}

/// What is known of a tag, as far as its age matters.
#[derive(Clone, Debug)]
pub(super) struct Standing<'a> {
    pub(super) meanings: Vec<Meaning<'a>>,
    pub(super) prospect: Prospect,
    /// Whether the manifest of the latest meaning is here.
    pub(super) is_kept: bool,
}

impl Standing<'_> {
    /// What a pull would get if upstream failed like that, and of which meaning; the row that
    /// forbids the latest one, if it forbids all. `None` if the tag is not known.
    pub(super) fn after(&self, reason: StaleReason) -> Option<(Decision, Option<&Meaning<'_>>)> {
        let mut refused = None;
        for meaning in &self.meanings {
            match meaning.known.after_failure(reason, meaning.is_complete) {
                served @ Decision::Served(_) => return Some((served, Some(meaning))),
                other => refused = refused.or(Some((other, None))),
            }
        }
        refused
    }

    /// What a pull gets without asking, if upstream is not asked.
    pub(super) fn opening(&self) -> Option<Row> {
        let latest = self.meanings.first()?;
        match latest.known.opening(self.prospect) {
            Opening::Serve(row) => (row == Row::Fresh || self.is_kept).then_some(row),
            Opening::ServeIfComplete(row) => {
                let (decision, _) = self.after(StaleReason::RateLimited)?;
                matches!(decision, Decision::Served(_)).then_some(row)
            }
            Opening::Ask => None,
        }
    }

    /// The table for this tag. `failed` is how upstream fails, if that is known.
    pub(super) fn table(&self, failed: Option<StaleReason>) -> Option<Staleness> {
        let latest = self.meanings.first()?;
        let without = Row::WITHOUT_ASKING.into_iter().map(|row| without_asking(row, &latest.known));
        let failing = Row::FAILING.into_iter().filter_map(|row| self.failing(row));
        let now = match self.opening() {
            Some(row) => Some(Decision::Served(row)),
            None => failed.and_then(|reason| self.after(reason)).map(|(decision, _)| decision),
        };
        Some(Staleness { now, rows: without.chain(failing).collect() })
    }

    fn failing(&self, row: Row) -> Option<RowState> {
        let reason = StaleReason::ALL.into_iter().find(|reason| reason.row() == row)?;
        let (decision, meaning) = self.after(reason)?;
        let left = meaning.and_then(|meaning| meaning.known.left(row));
        let text = match (decision, left) {
            (Decision::Served(_), Some(Lifetime::For(left))) => {
                format!("served stale for another {}", rough(left))
            }
            (Decision::Served(_), _) => "served stale without limit".to_owned(),
            (Decision::Refused(Row::Incomplete), _) => {
                "refused: no image that the tag meant is complete here".to_owned()
            }
            (Decision::Refused(Row::On401), _) if row != Row::On401 => {
                "refused: access was lost for longer than `stale.on_401` allows".to_owned()
            }
            (Decision::Refused(_), _) => "refused: its time is over".to_owned(),
        };
        Some(RowState { row, decision, left, text })
    }
}

fn without_asking(row: Row, known: &Known<'_>) -> RowState {
    let left = known.left(row);
    let decision = if left.is_some() { Decision::Served(row) } else { Decision::Refused(row) };
    let is_off = match row {
        Row::Pinned => !known.is_pinned,
        Row::WhileRevalidate => known.settings.stale.while_revalidate.is_zero(),
        _ => false,
    };
    let text = match left {
        Some(Lifetime::For(left)) if row == Row::WhileRevalidate => {
            format!("served at once for another {}, while upstream is asked", rough(left))
        }
        Some(Lifetime::For(left)) => format!("served without asking for another {}", rough(left)),
        Some(Lifetime::Forever) => "served without asking".to_owned(),
        None if is_off => "off".to_owned(),
        None => over(row, known),
    };
    RowState { row, decision, left, text }
}

/// Why a row that is in use does not serve the tag any more.
fn over(row: Row, known: &Known<'_>) -> String {
    let settings = known.settings;
    let whole = match row {
        Row::WhileRevalidate => settings.tag_ttl.saturating_add(settings.stale.while_revalidate),
        _ => settings.tag_ttl,
    };
    if known.has_lost_access() {
        return "over: access was lost for longer than `stale.on_401` allows".to_owned();
    }
    let age = known.now.since(known.confirmed_at);
    format!("over for {}", rough(age.saturating_sub(whole)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;
    use crate::pull::settings::{StalePolicy, TagSettings};

    const DAY: Duration = Duration::from_secs(86_400);

    fn settings() -> TagSettings {
        TagSettings {
            tag_ttl: Duration::from_secs(60),
            absent_ttl: Duration::ZERO,
            stale: StalePolicy {
                on_error: Lifetime::For(7 * DAY),
                on_401: Lifetime::Forever,
                on_429: Lifetime::Forever,
                on_404: Lifetime::NEVER,
                while_revalidate: Duration::ZERO,
                pinned: Vec::new(),
            },
            refresh_ahead: Duration::ZERO,
        }
    }

    fn meaning(settings: &TagSettings, age: Duration, is_complete: bool) -> Meaning<'_> {
        let confirmed_at = Timestamp::from_unix_ms(1_000_000);
        let now = confirmed_at.plus(age);
        let known = Known { settings, is_pinned: false, confirmed_at, denied_since: None, now };
        Meaning { known, digest: Digest::sha256(b"a"), is_complete }
    }

    fn text(staleness: &Staleness, row: Row) -> &str {
        &staleness.rows.iter().find(|state| state.row == row).unwrap().text
    }

    #[test]
    fn every_row_says_for_how_much_longer() {
        let settings = settings();
        let age = Duration::from_secs(86_400 - 3 * 3600);
        let mut standing = Standing {
            meanings: vec![meaning(&settings, age, true)],
            prospect: Prospect::default(),
            is_kept: true,
        };
        let table = standing.table(None).unwrap();
        assert_eq!(table.now, None);
        assert_eq!(text(&table, Row::Fresh), "over for 20h 59m");
        assert_eq!(text(&table, Row::Pinned), "off");
        assert_eq!(text(&table, Row::WhileRevalidate), "off");
        assert_eq!(text(&table, Row::OnError), "served stale for another 6days 3h");
        assert_eq!(text(&table, Row::On401), "served stale without limit");
        assert_eq!(text(&table, Row::On404), "refused: its time is over");
        let failed = standing.table(Some(StaleReason::Gone)).unwrap();
        assert_eq!(failed.now, Some(Decision::Refused(Row::On404)));
        let failed = standing.table(Some(StaleReason::Unreachable)).unwrap();
        assert_eq!(failed.now, Some(Decision::Served(Row::OnError)));
        // An allowance that is used up is known before anything fails.
        standing.prospect.is_exhausted = true;
        assert_eq!(standing.table(None).unwrap().now, Some(Decision::Served(Row::On429)));
    }

    #[test]
    fn an_earlier_complete_image_stands_in() {
        let settings = settings();
        let standing = Standing {
            meanings: vec![
                meaning(&settings, DAY, false),
                meaning(&settings, 8 * DAY, true),
                meaning(&settings, 2 * DAY, true),
            ],
            prospect: Prospect::default(),
            is_kept: true,
        };
        let (decision, found) = standing.after(StaleReason::Unreachable).unwrap();
        assert_eq!(decision, Decision::Served(Row::OnError));
        assert_eq!(found.unwrap().known.left(Row::OnError), Some(Lifetime::For(5 * DAY)));
        let only = Standing { meanings: standing.meanings[..2].to_vec(), ..standing };
        let (decision, _) = only.after(StaleReason::Unreachable).unwrap();
        assert_eq!(decision, Decision::Refused(Row::Incomplete), "that of the latest");
        let table = only.table(None).unwrap();
        assert_eq!(
            text(&table, Row::OnError),
            "refused: no image that the tag meant is complete here"
        );
    }
}
