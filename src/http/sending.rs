//! What a connection is being sent from mapped files.
//!
//! The kernel reads a mapped file while it writes to the socket. Where the disk fails then, or the
//! file was cut, the write ends with `EFAULT`, and so does the connection: the client sees a short
//! answer. Nobody read anything, so nobody would report the blob.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use crate::pull::damage::Mapping;

/// The blobs of one connection. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Sending(Arc<Mutex<Last>>);

/// The latest two: the end of one answer may wait in the connection's buffers while the next is
/// begun.
#[derive(Debug, Default)]
struct Last([Option<Mapping>; 2]);

impl Sending {
    /// Views of this blob are going to be sent.
    pub fn begins(&self, blob: Mapping) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.0[0].replace(blob);
        last.0[1] = before;
    }

    /// The connection ended with that error: the blobs are looked into if it means that one of
    /// them could not be read.
    pub fn failed(&self, error: &(dyn Error + 'static)) {
        if is_fault(error) {
            let last = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            last.0.iter().flatten().for_each(Mapping::failed);
        }
    }
}

/// Whether the system could not read the memory that it was to send.
fn is_fault(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let code = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if code == Some(Errno::FAULT.raw_os_error()) {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("around it")]
    struct Around(#[source] io::Error);

    #[test]
    fn only_the_systems_own_fault_counts() {
        let fault = || io::Error::from_raw_os_error(Errno::FAULT.raw_os_error());
        assert!(is_fault(&fault()));
        assert!(is_fault(&Around(fault())));
        assert!(!is_fault(&Around(io::Error::from(io::ErrorKind::BrokenPipe))));
        assert!(!is_fault(&io::Error::other("EFAULT")));
    }
}
