//! The plugin host with guests written by hand: good ones and hostile ones.

mod cache;
mod calls;
mod grants;
mod hostile;
mod kit;
mod leaks;
mod lies;
mod loading;
