//! The clients of a soak: whole pulls, ranges, and readers that are slow or go away.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pierhead_kit::http::{End, Request, Response};
use pierhead_kit::random::Random;
use pierhead_kit::sha256;
use pierhead_kit::upstream::ImageDigests;
use tokio::time::Instant;

use super::Dice;
use super::weather::Upstreams;

/// How many clients there are.
pub(super) const CLIENTS: u64 = 12;
/// How long each of them rests between two errands, in milliseconds at most.
const PAUSE_MS_MAX: u64 = 150;
/// How long a slow reader rests after every part that it reads.
const SLOW_PAUSE: Duration = Duration::from_millis(20);

/// How many images there are.
const IMAGES: u64 = 24;
/// The largest number of layers of one.
const LAYERS_MAX: u64 = 4;
/// The largest layer, in bytes.
pub(super) const LAYER_BYTES_MAX: u64 = 8 << 20;

/// How long an image may take when upstream is well again: what went wrong is remembered for
/// some seconds.
const WELL_WITHIN: Duration = Duration::from_secs(60);

/// An image, with its layers' content.
#[derive(Debug)]
struct Image {
    repository: String,
    digests: ImageDigests,
    layers: Vec<Random>,
}

/// Everything that is pulled. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Images(Arc<[Image]>);

/// What became of the clients' errands.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    /// Answers that came whole, and right.
    pub(super) right: u64,
    /// Answers that were left by the client.
    pub(super) left: u64,
    /// Refusals: a status other than 200 and 206.
    pub(super) refused: u64,
    /// Answers that broke off, and connections that were refused.
    pub(super) broken: u64,
    /// Complete answers with wrong bytes: never. Why, of the first few.
    pub(super) wrong: Vec<String>,
}

/// How one errand went.
enum Went {
    Right,
    Left,
    Refused(u16),
    Broken,
    Wrong(String),
}

impl Images {
    /// Makes them up, and adds them to the upstreams.
    pub(super) fn add(upstreams: &Upstreams, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let image = |n: u64| {
            let layers: Vec<Random> = (0..1 + dice.below(LAYERS_MAX))
                .map(|layer| {
                    let size = 1 + dice.below(LAYER_BYTES_MAX);
                    Random::new(seed ^ (n << 8 | layer), size)
                })
                .collect();
            let repository = format!("library/soak{n}");
            let digests = upstreams.add_image(&repository, "1", &layers);
            Image { repository, digests, layers }
        };
        Self((0..IMAGES).map(image).collect())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// What their layers have, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.0.iter().flat_map(|image| &image.layers).map(Random::len).sum()
    }

    /// Pulls every image whole, from upstreams that are well: what did not come, and why.
    pub(super) fn pull_all(&self, host: &str) -> Vec<String> {
        let mut wrong = Vec::new();
        for image in self.0.iter() {
            let until = Instant::now() + WELL_WITHIN;
            loop {
                match image.pull(host) {
                    Went::Right => break,
                    Went::Wrong(why) => wrong.push(why),
                    Went::Refused(status) if Instant::now() > until => {
                        wrong.push(format!("{} is refused: {status}", image.repository));
                    }
                    _ if Instant::now() > until => {
                        wrong.push(format!("{} breaks off", image.repository));
                    }
                    _ => {
                        thread::sleep(Duration::from_millis(500));
                        continue;
                    }
                }
                break;
            }
        }
        wrong
    }
}

impl Image {
    fn url(&self, host: &str, what: &str) -> String {
        format!("http://{host}/v2/{}/{what}", self.repository)
    }

    /// The manifest by its tag, then everything that it names.
    fn pull(&self, host: &str) -> Went {
        let blobs = [&self.digests.config].into_iter().chain(&self.digests.layers);
        let blobs = blobs.map(|digest| (format!("blobs/{digest}"), digest));
        let manifest = ("manifests/1".to_owned(), &self.digests.manifest);
        for (what, digest) in [manifest].into_iter().chain(blobs) {
            let went = whole(&Request::new("GET", self.url(host, &what)), digest);
            if !matches!(went, Went::Right) {
                return went;
            }
        }
        Went::Right
    }

    fn errand(&self, host: &str, dice: &mut Dice) -> Went {
        let which = usize::try_from(dice.below(self.layers.len() as u64)).unwrap_or(0);
        let (digest, content) = (&self.digests.layers[which], self.layers[which]);
        let url = self.url(host, &format!("blobs/{digest}"));
        let from = dice.below(content.len());
        match dice.below(10) {
            0..=3 => self.pull(host),
            4 => range(&url, content, from, Some(from + dice.below(content.len() - from))),
            5 => range(&url, content, from, None),
            6 => {
                // As containerd's parallel fetch: open-ended, and left.
                let bytes = format!("bytes={from}-");
                let leaves = 1 + dice.below(1 << 20);
                left(&Request::new("GET", url).header("range", bytes).stop_after(leaves))
            }
            7 => left(&Request::new("GET", url).stop_after(1 + from)),
            8 => slow(&Request::new("GET", url), digest),
            _ => match Request::new("HEAD", url).try_send() {
                Ok(response) if response.status == 200 => Went::Right,
                Ok(response) => Went::Refused(response.status),
                Err(_) => Went::Broken,
            },
        }
    }
}

/// The answer, if it is 200 or 206 and came to its end.
fn complete(sent: std::io::Result<Response>) -> Result<Response, Went> {
    match sent {
        Ok(response) if !matches!(response.status, 200 | 206) => {
            Err(Went::Refused(response.status))
        }
        Ok(response) if response.end == End::Complete => Ok(response),
        _ => Err(Went::Broken),
    }
}

fn whole(request: &Request, digest: &str) -> Went {
    match complete(request.try_send()) {
        Ok(response) if sha256(&response.body) == digest => Went::Right,
        Ok(response) => Went::Wrong(format!("{digest}: {} other bytes", response.body.len())),
        Err(went) => went,
    }
}

/// Up to `last`, or to the end. What is bounded may be wrong while upstream sends wrong bytes: its
/// reader has to verify what it assembles.
fn range(url: &str, content: Random, from: u64, last: Option<u64>) -> Went {
    let end = last.map_or(content.len(), |last| last + 1);
    let last = last.map_or(String::new(), |last| last.to_string());
    let request = Request::new("GET", url).header("range", format!("bytes={from}-{last}"));
    let response = match complete(request.try_send()) {
        Ok(response) => response,
        Err(went) => return went,
    };
    // A blob whose size is not known yet comes whole.
    let from = if response.status == 206 { from } else { 0 };
    let end = if response.status == 206 { end } else { content.len() };
    let len = usize::try_from(end - from).unwrap_or(usize::MAX);
    let is_right = response.body == content.part(from, len);
    match is_right || !last.is_empty() {
        true => Went::Right,
        false => Went::Wrong(format!("{url}: other bytes from {from} to the end")),
    }
}

/// A client that goes away before the end.
fn left(request: &Request) -> Went {
    match request.try_stream(|_| {}) {
        Ok(response) if matches!(response.status, 200 | 206) => Went::Left,
        Ok(response) => Went::Refused(response.status),
        Err(_) => Went::Broken,
    }
}

fn slow(request: &Request, digest: &str) -> Went {
    let mut body = Vec::new();
    let answer = request.try_stream(|part| {
        body.extend_from_slice(part);
        thread::sleep(SLOW_PAUSE);
    });
    match complete(answer) {
        Ok(_) if sha256(&body) == digest => Went::Right,
        Ok(_) => Went::Wrong(format!("{digest}: {} other bytes, slowly", body.len())),
        Err(went) => went,
    }
}

/// The clients at work.
pub(super) struct Clients {
    stop: Arc<AtomicBool>,
    counts: Arc<Mutex<Counts>>,
    threads: Vec<JoinHandle<()>>,
}

/// How many wrong answers are told in full.
const WRONG_TOLD: usize = 10;

impl Counts {
    fn add(&mut self, went: Went) {
        match went {
            Went::Right => self.right += 1,
            Went::Left => self.left += 1,
            Went::Refused(_) => self.refused += 1,
            Went::Broken => self.broken += 1,
            Went::Wrong(why) if self.wrong.len() < WRONG_TOLD => self.wrong.push(why),
            Went::Wrong(_) => {}
        }
    }
}

impl Clients {
    /// Starts them.
    pub(super) fn start(host: &str, images: &Images, seed: u64) -> Self {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Counts>>::default());
        let client = |n: u64| {
            let (stop, counts) = (Arc::clone(&stop), Arc::clone(&counts));
            let (images, host) = (images.clone(), host.to_owned());
            thread::spawn(move || {
                let mut dice = Dice::new(seed ^ (n + 1) << 32);
                while !stop.load(Ordering::Relaxed) {
                    // The lower its number, the more an image is pulled.
                    let which = dice.below(IMAGES).min(dice.below(IMAGES));
                    let image = &images.0[usize::try_from(which).unwrap_or(0)];
                    let went = image.errand(&host, &mut dice);
                    counts.lock().unwrap_or_else(PoisonError::into_inner).add(went);
                    thread::sleep(Duration::from_millis(dice.below(PAUSE_MS_MAX)));
                }
            })
        };
        let threads = (0..CLIENTS).map(client).collect();
        Self { stop, counts, threads }
    }

    /// Ends them, when their errands are over: what became of them.
    pub(super) fn stop(self) -> Counts {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = self.threads.into_iter().filter_map(|thread| thread.join().err()).count();
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if panicked > 0 {
            counts.wrong.push(format!("{panicked} clients panicked"));
        }
        counts
    }
}
