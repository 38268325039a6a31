//! What an upstream was asked, and what it sent.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// One request.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its number, from 0, in the order in which the heads of the requests arrived.
    pub order: usize,
    /// Which connection it came on, from 0 in the order in which they were accepted.
    pub connection: u64,
    /// When its head had arrived.
    pub started_at: Instant,
    /// GET, HEAD and so on.
    pub method: String,
    /// The path.
    pub path: String,
    /// The query, without the question mark; empty where there is none.
    pub query: String,
    /// The `Range` header.
    pub range: Option<String>,
    /// Whether there was an `Authorization` header.
    pub authorization: bool,
    /// All `Accept` headers, joined by commas.
    pub accept: Option<String>,
    /// The `Accept-Encoding` header.
    pub accept_encoding: Option<String>,
    /// All headers of the request, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body of the request, as far as it is text (token requests).
    pub body: String,
    /// The answer's status; 0 as long as there is none.
    pub status: u16,
    /// How many bytes of the body were handed to the connection. After a client went away this may
    /// exceed what it received, by what the sockets' buffers hold.
    pub bytes_sent: u64,
    /// Whether the answer is over, in whatever way.
    pub finished: bool,
    /// Whether the answer was sent to its end.
    pub complete: bool,
}

impl Entry {
    /// The first request header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Whether this is a GET for a blob's content that content was sent for.
    pub fn is_blob_get(&self) -> bool {
        self.method == "GET"
            && (self.path.contains("/blobs/") || self.path.starts_with("/cdn/"))
            && matches!(self.status, 200 | 206)
    }
}

#[derive(Debug)]
pub(super) struct Log {
    entries: Mutex<Vec<Entry>>,
    changed: watch::Sender<()>,
}

impl Log {
    pub(super) fn new() -> Self {
        Self { entries: Mutex::default(), changed: watch::Sender::new(()) }
    }

    pub(super) fn add(&self, mut entry: Entry) -> usize {
        let mut entries = self.entries.lock().unwrap();
        let order = entries.len();
        entry.order = order;
        entries.push(entry);
        drop(entries);
        self.changed.send_replace(());
        order
    }

    pub(super) fn change(&self, order: usize, change: impl FnOnce(&mut Entry)) {
        // The log may have been cleared while the request ran.
        if let Some(entry) = self.entries.lock().unwrap().get_mut(order) {
            change(entry);
        }
        self.changed.send_replace(());
    }

    pub(super) fn clear(&self) {
        self.entries.lock().unwrap().clear();
        self.changed.send_replace(());
    }

    pub(super) fn snapshot(&self) -> Vec<Entry> {
        self.entries.lock().unwrap().clone()
    }

    fn holds(&self, condition: &mut impl FnMut(&[Entry]) -> bool) -> bool {
        condition(&self.entries.lock().unwrap())
    }

    pub(super) async fn wait_for(
        &self,
        mut condition: impl FnMut(&[Entry]) -> bool,
        deadline: Duration,
    ) {
        let mut changed = self.changed.subscribe();
        let reached = async {
            while !self.holds(&mut condition) {
                changed.changed().await.expect("the sender is ours");
            }
        };
        let in_time = tokio::time::timeout(deadline, reached).await.is_ok();
        assert!(in_time, "not within {deadline:?}; the log is {:#?}", self.snapshot());
    }

    pub(super) fn wait_for_blocking(
        &self,
        mut condition: impl FnMut(&[Entry]) -> bool,
        deadline: Duration,
    ) {
        let end = Instant::now() + deadline;
        while !self.holds(&mut condition) {
            let late = Instant::now() > end;
            assert!(!late, "not within {deadline:?}; the log is {:#?}", self.snapshot());
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
