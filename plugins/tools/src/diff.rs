//! `pierhead plugin diff`: which answers change between two versions of a plugin?

use bytes::Bytes;

use crate::answer;
use crate::case::{Case, Expect};
use crate::run::{RunError, Runner};

/// A case that two versions answer differently.
#[derive(Debug)]
pub struct Change {
    /// The case's name.
    pub name: String,
    /// What the old version answers, in a line.
    pub old: String,
    /// What the new one answers.
    pub new: String,
}

/// Runs one case against both versions, with the same settings and the same world.
///
/// # Errors
/// When it cannot be run against one of them.
pub async fn compare(
    runner: &Runner,
    old: &Bytes,
    new: &Bytes,
    case: &Case,
) -> Result<Option<Change>, RunError> {
    let old = runner.run(old, case).await?.came;
    let new = runner.run(new, case).await?.came;
    Ok((!same(&old, &new)).then(|| Change {
        name: case.name.clone(),
        old: answer::line(&old),
        new: answer::line(&new),
    }))
}

/// Whether two answers have the same effect. Words of a broken call may differ: they hold
/// addresses.
fn same(old: &Expect, new: &Expect) -> bool {
    if old.broken.is_some() || new.broken.is_some() {
        return old.broken == new.broken;
    }
    old.decision == new.decision
        && old.code == new.code
        && old.message == new.message
        && old.warnings == new.warnings
        && old.obligations == new.obligations
        && old.reuse_ms == new.reuse_ms
        && old.depends_on == new.depends_on
        && old.outcome == new.outcome
        && old.identity == new.identity
        && old.granted == new.granted
        && old.resolved == new.resolved
        && old.credential == new.credential
}
