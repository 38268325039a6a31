//! A client that costs next to nothing: one GET on a raw socket. Forty of them share two
//! processors with what they measure.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::Result;

/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(60);
const BUFFER_BYTES: usize = 64 * 1024;
const DISCARD_BYTES: usize = 1024 * 1024;
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A body that has begun to come.
#[derive(Debug)]
pub(crate) struct Download {
    socket: TcpStream,
    buffer: Vec<u8>,
    /// What came with the head: the body's first bytes.
    begun: Vec<u8>,
    len: u64,
    received: u64,
    /// When the request began, before the connection was made.
    pub(crate) asked_at: Instant,
    /// From then until the body's first byte.
    pub(crate) first_byte: Duration,
}

impl Download {
    /// Asks `host` (`127.0.0.1:PORT`) for `path` and waits for the first byte of a 200.
    pub(crate) fn open(host: &str, path: &str) -> Result<Self> {
        let asked_at = Instant::now();
        let mut socket = TcpStream::connect(host)?;
        socket.set_read_timeout(Some(SILENCE))?;
        socket.set_write_timeout(Some(SILENCE))?;
        let accept = "application/vnd.oci.image.manifest.v1+json, */*";
        let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\naccept: {accept}\r\n\r\n");
        socket.write_all(head.as_bytes())?;
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut got = 0;
        loop {
            let n = socket.read(&mut buffer[got..])?;
            if n == 0 {
                return Err(format!("{host}{path}: the connection closed before the body").into());
            }
            got += n;
            let Some(end) = head_end(&buffer[..got]) else {
                if got > HEAD_BYTES_MAX {
                    return Err(format!("{host}{path}: the head has no end").into());
                }
                continue;
            };
            let (status, len) = parse_head(&buffer[..end])?;
            if status != 200 {
                let text = String::from_utf8_lossy(&buffer[..got]).into_owned();
                return Err(format!("{host}{path}: {text}").into());
            }
            if got == end && len > 0 {
                continue;
            }
            let first_byte = asked_at.elapsed();
            let begun = buffer[end..got].to_vec();
            let received = begun.len() as u64;
            return Ok(Self { socket, buffer, begun, len, received, asked_at, first_byte });
        }
    }

    /// Reads to the end: the digest of the whole.
    pub(crate) fn sha256(mut self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(&self.begun);
        while self.received < self.len {
            let n = self.socket.read(&mut self.buffer)?;
            self.count(n)?;
            hash.update(&self.buffer[..n]);
        }
        Ok(format!("sha256:{}", hex::encode(hash.finalize())))
    }

    /// Reads until `len` bytes of the body have come, or all, and throws them away. The kernel
    /// drops them without copying them first.
    pub(crate) fn discard(&mut self, len: u64) -> Result<()> {
        // Never touched, so it takes no memory.
        let mut buffer = vec![0; DISCARD_BYTES];
        while self.received < self.len.min(len) {
            let want = self.len.min(len) - self.received;
            let want = usize::try_from(want).unwrap_or(usize::MAX).min(DISCARD_BYTES);
            let (_, n) = recv(&self.socket, &mut buffer[..want], RecvFlags::TRUNC)?;
            self.count(n)?;
        }
        Ok(())
    }

    /// Reads all of it and throws it away.
    pub(crate) fn discard_all(mut self) -> Result<u64> {
        self.discard(u64::MAX)?;
        Ok(self.received)
    }

    fn count(&mut self, n: usize) -> Result<()> {
        if n == 0 {
            let (received, len) = (self.received, self.len);
            return Err(format!("the body broke off at byte {received} of {len}").into());
        }
        self.received += n as u64;
        Ok(())
    }
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn parse_head(head: &[u8]) -> Result<(u16, u64)> {
    let head = std::str::from_utf8(head)?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let len = lines.filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let status = status.ok_or("no status line")?;
    // An error's body need not have a length.
    Ok((status, if status == 200 { len.ok_or("no Content-Length")? } else { 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read() {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nbody";
        assert_eq!(head_end(head), Some(head.len() - 4));
        assert_eq!(parse_head(&head[..head.len() - 4]).unwrap(), (200, 12));
        assert_eq!(parse_head(b"HTTP/1.1 503 no\r\n\r\n").unwrap(), (503, 0));
        assert!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
