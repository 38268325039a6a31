//! The last bytes of a blob that cannot be stored, in memory.
//!
//! What arrives from upstream waits here for its readers. The fastest of them sets the pace, so a
//! single client never loses anything; who falls further behind than the ring is long has to fetch
//! for itself ([`private`](super::private)).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::timeout;

/// How much of a blob a ring holds, in bytes.
pub const RING_BYTES_MAX: u64 = 16 << 20;

/// Where a reader is that wants no bytes, only that there is one: it waits for what never comes, and
/// holds up nobody.
pub const BEYOND_ALL: u64 = u64::MAX;

/// How long a ring that is full waits for a first reader.
const READER_PATIENCE: Duration = Duration::from_secs(30);

/// Nobody reads what could only be read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unread;

/// The ring. Shared by the one who fills it and everybody who reads.
#[derive(Debug)]
pub struct Ring {
    state: Mutex<State>,
    /// A reader came, moved or left.
    moved: Notify,
    patience: Duration,
}

#[derive(Debug)]
struct State {
    /// What is held, each with its offset in the blob; without gaps.
    chunks: VecDeque<(u64, Bytes)>,
    /// Where the first byte that is held stands in the blob.
    start: u64,
    /// Where the next byte will stand.
    end: u64,
    /// Where each reader is.
    readers: HashMap<u64, u64>,
    next_reader: u64,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The bytes at its offset: at least one.
    Bytes(Bytes),
    /// They are gone.
    Gone,
    /// They are not here yet.
    NotYet,
}

impl Ring {
    /// An empty ring whose first byte will be that at `offset` of the blob.
    pub fn beginning_at(offset: u64) -> Arc<Self> {
        Self::with_patience(offset, READER_PATIENCE)
    }

    fn with_patience(offset: u64, patience: Duration) -> Arc<Self> {
        let state = State {
            chunks: VecDeque::new(),
            start: offset,
            end: offset,
            readers: HashMap::new(),
            next_reader: 0,
        };
        Arc::new(Self { state: Mutex::new(state), moved: Notify::new(), patience })
    }

    /// Whether `len` more bytes would have to wait for readers.
    pub fn is_full(&self, len: usize) -> bool {
        let mut state = self.lock();
        state.let_go(len as u64);
        !state.fits(len as u64)
    }

    /// Adds the next bytes; waits while readers are too far behind for them. One adds at a time.
    ///
    /// Cancel-safe: they are added, or not.
    ///
    /// # Errors
    /// When there is no reader at all, for a while.
    pub async fn push(&self, bytes: Bytes) -> Result<(), Unread> {
        let len = bytes.len() as u64;
        loop {
            let had_reader = {
                let mut state = self.lock();
                state.let_go(len);
                if state.fits(len) {
                    let end = state.end;
                    state.end += len;
                    state.chunks.push_back((end, bytes));
                    return Ok(());
                }
                !state.readers.is_empty()
            };
            // A reader that does not read is ended by its connection's limits.
            let timed_out = timeout(self.patience, self.moved.notified()).await.is_err();
            if timed_out && !had_reader && self.lock().readers.is_empty() {
                return Err(Unread);
            }
        }
    }

    /// Where the first byte that can still be read stands in the blob.
    pub fn start(&self) -> u64 {
        self.lock().start
    }

    /// Whether a reader at `offset` will find its bytes here, now or soon.
    pub fn covers(&self, offset: u64) -> bool {
        let state = self.lock();
        offset >= state.start && offset <= state.end.saturating_add(RING_BYTES_MAX)
    }

    /// Becomes a reader at `offset`.
    pub fn reader(self: &Arc<Self>, offset: u64) -> RingReader {
        let mut state = self.lock();
        let id = state.next_reader;
        state.next_reader += 1;
        state.readers.insert(id, offset);
        drop(state);
        self.moved.notify_one();
        RingReader { ring: Arc::clone(self), id }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fits(&self, len: u64) -> bool {
        // A single chunk larger than the ring passes through an empty one.
        self.chunks.is_empty() || self.end - self.start + len <= RING_BYTES_MAX
    }

    /// Drops what is needed to make room for `len` bytes and what the fastest reader is done with.
    fn let_go(&mut self, len: u64) {
        // One that waits for bytes to come does not hold any up.
        let fastest = self.readers.values().filter(|at| **at <= self.end).max().copied();
        let keep_from = match fastest {
            Some(at) => at,
            None if self.readers.is_empty() => self.start,
            None => self.end,
        };
        while !self.fits(len) {
            match self.chunks.front() {
                Some((offset, bytes)) if offset + bytes.len() as u64 <= keep_from => {
                    self.start = offset + bytes.len() as u64;
                    self.chunks.pop_front();
                }
                _ => return,
            }
        }
    }
}

/// One who reads a [`Ring`]; leaves it when dropped.
#[derive(Debug)]
pub struct RingReader {
    ring: Arc<Ring>,
    id: u64,
}

impl RingReader {
    /// The bytes at `offset`, as many as there are in one piece, and at most `max`. The reader
    /// needs nothing before them any more.
    pub fn read(&self, offset: u64, max: u64) -> Found {
        let mut state = self.ring.lock();
        if offset < state.start {
            return Found::Gone;
        }
        let index = state.chunks.partition_point(|(at, bytes)| at + bytes.len() as u64 <= offset);
        let found = match state.chunks.get(index) {
            Some((at, bytes)) => {
                let skipped = usize::try_from(offset - at).unwrap_or(usize::MAX);
                let rest = bytes.slice(skipped.min(bytes.len())..);
                let max = usize::try_from(max).unwrap_or(usize::MAX);
                Found::Bytes(rest.slice(..rest.len().min(max)))
            }
            None => Found::NotYet,
        };
        let done = match &found {
            Found::Bytes(bytes) => offset + bytes.len() as u64,
            Found::Gone | Found::NotYet => offset,
        };
        state.readers.insert(self.id, done);
        drop(state);
        self.ring.moved.notify_one();
        found
    }
}

impl Drop for RingReader {
    fn drop(&mut self) {
        self.ring.lock().readers.remove(&self.id);
        self.ring.moved.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = 1 << 20;

    fn chunk(n: u64) -> Bytes {
        Bytes::from(vec![n as u8; CHUNK as usize])
    }

    async fn filled() -> Arc<Ring> {
        let ring = Ring::with_patience(0, Duration::from_millis(20));
        for n in 0..RING_BYTES_MAX / CHUNK {
            assert!(!ring.is_full(CHUNK as usize));
            ring.push(chunk(n)).await.unwrap();
        }
        ring
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_ring_that_nobody_reads_gives_up() {
        let ring = filled().await;
        assert!(ring.is_full(1));
        assert_eq!(ring.push(chunk(16)).await, Err(Unread));
        assert_eq!(ring.start(), 0, "the first reader still finds everything");
    }

    #[tokio::test(start_paused = true)]
    async fn the_fastest_reader_sets_the_pace_and_the_others_lose_what_is_gone() {
        let ring = filled().await;
        let (fast, slow) = (ring.reader(0), ring.reader(0));
        assert_eq!(slow.read(0, 10), Found::Bytes(chunk(0).slice(..10)));
        assert_eq!(fast.read(0, u64::MAX), Found::Bytes(chunk(0)));
        assert_eq!(fast.read(CHUNK, u64::MAX), Found::Bytes(chunk(1)));
        assert!(!ring.is_full(CHUNK as usize));
        ring.push(chunk(16)).await.unwrap();
        ring.push(chunk(17)).await.unwrap();
        assert!(ring.is_full(CHUNK as usize), "the fast one has not read more");
        assert_eq!(slow.read(10, 10), Found::Gone);
        assert_eq!(slow.read(2 * CHUNK + 3, 10), Found::Bytes(chunk(2).slice(3..13)));
        assert_eq!(fast.read(18 * CHUNK, 10), Found::NotYet);
        assert!(ring.covers(2 * CHUNK) && !ring.covers(0));
        assert!(ring.covers(30 * CHUNK) && !ring.covers(60 * CHUNK));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_waits_far_ahead_holds_up_nobody_and_tears_nobody_along() {
        let ring = filled().await;
        let _waits = ring.reader(100 * CHUNK);
        let reads = ring.reader(0);
        assert!(ring.is_full(CHUNK as usize), "the one in the window counts");
        drop(reads);
        assert!(!ring.is_full(CHUNK as usize));
        let _stays = ring.reader(BEYOND_ALL);
        for n in 16..40 {
            ring.push(chunk(n)).await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_waits_for_a_reader_that_comes_and_moves() {
        let ring = filled().await;
        let reader = ring.reader(0);
        let pushing = ring.push(chunk(16));
        let reading = async {
            let mut offset = 0;
            while offset < 17 * CHUNK {
                match reader.read(offset, u64::MAX) {
                    Found::Bytes(bytes) => {
                        assert_eq!(bytes[0], (offset / CHUNK) as u8);
                        offset += bytes.len() as u64;
                    }
                    Found::NotYet => tokio::task::yield_now().await,
                    Found::Gone => panic!("the only reader loses nothing"),
                }
            }
        };
        let (pushed, ()) = tokio::join!(pushing, reading);
        pushed.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_chunk_larger_than_the_ring_passes() {
        let ring = Ring::with_patience(7, Duration::from_millis(20));
        let large = Bytes::from(vec![1; RING_BYTES_MAX as usize + 1]);
        ring.push(large.clone()).await.unwrap();
        let reader = ring.reader(7);
        assert_eq!(reader.read(7, u64::MAX), Found::Bytes(large));
        ring.push(chunk(1)).await.unwrap();
    }
}
