//! What is kept of what came in, and what goes when there is no room.

pub mod policy;
pub mod scrub;
