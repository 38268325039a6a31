//! Where tests kill the process, to look at what it leaves behind.

/// Names the points, once.
macro_rules! points {
    ($($(#[$doc:meta])* $point:ident => $name:literal,)+) => {
        /// A moment that a crash may choose.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Point {
            $($(#[$doc])* $point,)+
        }

        #[cfg(test)]
        impl Point {
            /// All of them.
            pub(super) const ALL: &[Self] = &[$(Self::$point,)+];

            /// What a child process is told.
            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)+
                }
            }
        }
    };
}

points! {
    /// A spool file is there, empty.
    SpoolCreated => "spool-created",
    /// A write has reached the page cache.
    Written => "written",
    /// The data of a spool is on the disk, and its sidecar does not say so yet.
    DataSynced => "data-synced",
    /// A new sidecar is on the disk, under another name.
    SidecarWritten => "sidecar-written",
    /// It has its name, which may not be on the disk.
    SidecarRenamed => "sidecar-renamed",
    /// The record is complete.
    Recorded => "recorded",
    /// What was recorded stays, and what was reserved beyond it is not given back yet.
    ParkBegun => "park-begun",
    /// A parked spool is trimmed.
    Parked => "parked",
    /// A parked spool was taken up again.
    Resumed => "resumed",
    /// A sidecar is gone, and what it describes is not.
    SidecarRemoved => "sidecar-removed",
    /// A spool file is gone.
    SpoolRemoved => "spool-removed",
    /// The content of a blob is on the disk, without its name.
    CommitSynced => "commit-synced",
    /// It has its name, which may not be on the disk.
    CommitRenamed => "commit-renamed",
    /// The name is on the disk.
    CommitNamed => "commit-named",
    /// A blob is about to lose its name.
    RemovalBegun => "removal-begun",
    /// It lost it, and its space is still taken.
    RemovalRenamed => "removal-renamed",
    /// A damaged blob is about to lose its name.
    QuarantineBegun => "quarantine-begun",
    /// It lies in the quarantine.
    Quarantined => "quarantined",
    /// A file has left the quarantine.
    QuarantineFreed => "quarantine-freed",
}

/// Ends the process here if that is what a test wants of it.
#[cfg(not(test))]
#[inline(always)]
pub(super) const fn point(_: Point) {}

#[cfg(test)]
pub(super) use tests::point;

#[cfg(test)]
mod tests;
