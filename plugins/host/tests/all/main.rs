//! The plugin host with guests written by hand: good ones and hostile ones.

#![allow(clippy::expect_used, clippy::panic, reason = "in a test, a panic is the report")]

mod cache;
mod calls;
mod grants;
mod hostile;
mod interface;
mod kit;
mod leaks;
mod lies;
mod loading;
