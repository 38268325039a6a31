//! One seed from its beginning to its end: a registry, its weather, the clients, and the lives of
//! the process between its crashes.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::panic;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use pierhead::clock::{Clock, Timestamp};
use pierhead::oci::Digest;
use pierhead::store::{BlobStore as _, Evicted};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::catalogue::Catalogue;
use crate::client::{Client, Errand, Manner};
use crate::dice::Dice;
use crate::engine::{Disk, Engine, TagTimes};
use crate::model::{Broken, Left, Model, no_panics, nothing_left};
use crate::registry::{Registry, short};
use crate::trace::{Tally, Trace, ms, wait};
use crate::weather::{Fault, Forecast};

/// How long the weather lasts, and clients come.
const TIME: Duration = Duration::from_secs(240);

/// How long everything may take to come to rest when the clients are gone.
const REST_MAX: Duration = Duration::from_secs(1_800);

/// How much later it is when everything must work again: whatever was remembered of the bad times
/// is forgotten.
const LATER: Duration = Duration::from_secs(2 * 3_600);

/// For how long upstream is gone at the end.
const GONE: Duration = Duration::from_secs(3_600);

/// How long it takes until every endpoint is asked again, whatever it did: longer than any of them
/// is left alone.
const RESTED: Duration = Duration::from_secs(120);

/// How often the wall clock is set by the simulated time.
const TICK: Duration = ms(250);

/// Room in a store that has enough, and in one that has not, in bytes.
const ROOM: u64 = 256 << 20;
const TIGHT: u64 = 900_000;

/// When the wall clock begins: in November 2023.
const EPOCH: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);

/// What became of a seed.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) result: Result<(), Broken>,
    pub(crate) lines: Vec<String>,
    pub(crate) tally: Tally,
    pub(crate) hash: u64,
}

/// What happens beside the clients.
#[derive(Clone, Debug)]
enum Event {
    /// A blob is evicted.
    Evict(Digest),
    /// The wall clock jumps ahead.
    Jump(Duration),
}

/// What a seed decides.
#[derive(Debug)]
struct Story {
    seed: u64,
    catalogue: Arc<Catalogue>,
    forecast: Forecast,
    errands: Vec<(Duration, Errand)>,
    events: Vec<(Duration, Event)>,
    crashes: Vec<Duration>,
    tag_times: TagTimes,
    is_tight: bool,
}

impl Story {
    fn draw(seed: u64) -> Self {
        let catalogue = Catalogue::draw(seed, TIME);
        let forecast = Forecast::draw(seed, TIME);
        let mut dice = Dice::new(seed, "story");
        let span = u64::try_from(TIME.as_millis()).expect("a short time");
        // Many come in a burst: herds are what flights are for.
        let bursts: Vec<u64> = (0..4).map(|_| dice.within(0..span)).collect();
        let errands = (0..dice.within(8..40))
            .map(|_| {
                let at = match dice.chance(60) {
                    true => *dice.pick(&bursts) + dice.within(0..500),
                    false => dice.within(0..span),
                };
                (ms(at), errand(&mut dice, &catalogue))
            })
            .collect();
        let digests: Vec<Digest> = catalogue.contents.keys().copied().collect();
        let mut events = Vec::new();
        if dice.chance(40) {
            for _ in 0..dice.within(1..5) {
                let event = match dice.chance(50) {
                    true => Event::Evict(*dice.pick(&digests)),
                    false => Event::Jump(Duration::from_secs(dice.within(1..600))),
                };
                events.push((ms(dice.within(0..span)), event));
            }
        }
        let crashes = if dice.chance(40) { dice.within(1..3) } else { 0 };
        let mut crashes: Vec<Duration> = (0..crashes).map(|_| ms(dice.within(1..span))).collect();
        crashes.sort_unstable();
        let tag_times = TagTimes {
            ttl: Duration::from_secs(*dice.pick(&[0, 5, 60])),
            while_revalidate: Duration::from_secs(*dice.pick(&[0, 0, 30])),
            refresh_ahead: Duration::from_secs(*dice.pick(&[0, 0, 100])),
        };
        let is_tight = dice.chance(12);
        let catalogue = Arc::new(catalogue);
        Self { seed, catalogue, forecast, errands, events, crashes, tag_times, is_tight }
    }
}

fn errand(dice: &mut Dice, catalogue: &Catalogue) -> Errand {
    let index = |dice: &mut Dice, len: usize| {
        usize::try_from(dice.within(0..len as u64)).expect("an index")
    };
    let repository = index(dice, catalogue.repositories.len());
    let of = &catalogue.repositories[repository];
    let image = index(dice, of.images.len());
    let digest = *dice.pick(&of.images[image].blobs);
    let len = catalogue.content(&digest).len() as u64;
    let somewhere = dice.within(0..len);
    let tags: Vec<_> = of.tags.keys().cloned().collect();
    match dice.within(0..16) {
        0..=4 => {
            Errand::Tag { repository, tag: dice.pick(&tags).clone(), head_first: dice.chance(50) }
        }
        5 => Errand::Image { repository, image },
        6 => Errand::Head { repository, digest },
        7 | 8 => Errand::Parallel { repository, digest, parts: dice.within(2..6) },
        kind => {
            let last = dice.within(somewhere..len);
            let range = match kind {
                9 => Some(format!("bytes={somewhere}-{last}")),
                10 => Some(format!("bytes=-{}", dice.within(1..len + 1))),
                11 => Some(format!("bytes={somewhere}-")),
                12 => Some(format!("bytes=0-0,{somewhere}-{last}")),
                _ => None,
            };
            let leaves_after = dice.chance(40).then(|| dice.within(0..len));
            let pause = if dice.chance(40) { ms(dice.within(1..4_000)) } else { Duration::ZERO };
            Errand::Blob { repository, digest, range, manner: Manner { pause, leaves_after } }
        }
    }
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Counts panics for each thread; their messages are printed as ever.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.set(PANICS.get() + 1);
            print(info);
        }));
    });
}

/// Tells the story of that seed.
pub(crate) fn tell(seed: u64) -> Told {
    count_panics();
    PANICS.set(0);
    let story = Story::draw(seed);
    let trace = Trace::default();
    let result = live(&story, &trace).and_then(|()| no_panics(PANICS.get()));
    Told { result, lines: trace.lines(), tally: trace.tally(), hash: trace.hash() }
}

/// Everything that outlives the process.
struct World<'a> {
    story: &'a Story,
    trace: &'a Trace,
    registry: Registry,
    disk: Disk,
    model: Arc<Mutex<Model>>,
    clock: Clock,
    /// The clients that are done.
    done: Arc<Mutex<BTreeSet<usize>>>,
}

fn live(story: &Story, trace: &Trace) -> Result<(), Broken> {
    let Story { seed, catalogue, forecast, .. } = story;
    trace.note(format!("{:?}, tight: {}", forecast.weather, story.is_tight));
    for outage in &forecast.outages {
        trace.note(outage.to_string());
    }
    let world = World {
        story,
        trace,
        registry: Registry::new(*seed, Arc::clone(catalogue), forecast.clone(), trace.clone()),
        disk: Disk::new(if story.is_tight { TIGHT } else { ROOM }),
        model: Arc::default(),
        clock: Clock::manual(EPOCH),
        done: Arc::default(),
    };
    let ends = story.crashes.iter().copied().map(Some).chain([None]);
    for end in ends {
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        let lived = runtime.block_on(async {
            trace.begin();
            let lived = world.life(end).await;
            trace.end();
            lived
        });
        // Whatever was going on is gone in the middle of it: what is dropped parks nothing.
        if end.is_some() {
            world.disk.blobs.0.crash();
        }
        drop(runtime);
        lived?;
        if end.is_some() {
            trace.note("the process was killed".to_owned());
            trace.count("crashes");
            world.model().crashed();
        }
    }
    // Who has no room fetches again.
    if !story.is_tight {
        let transfers = world.registry.transfers();
        for (digest, content) in &catalogue.contents {
            world.model().transfers(digest, content.len() as u64, &transfers)?;
        }
    }
    Ok(())
}

impl World<'_> {
    fn model(&self) -> std::sync::MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn client(&self, name: String, engine: &Engine, is_well: bool) -> Client {
        Client {
            name,
            thinks: ms(1),
            engine: engine.clone(),
            disk: self.disk.clone(),
            registry: self.registry.clone(),
            catalogue: Arc::clone(&self.story.catalogue),
            model: Arc::clone(&self.model),
            trace: self.trace.clone(),
            is_well,
        }
    }

    /// A life of the process, until it is killed at `end`; the last one ends in peace.
    async fn life(&self, end: Option<Duration>) -> Result<(), Broken> {
        let began = self.trace.now();
        let endpoints = self.story.forecast.endpoints.len();
        let (story, clock) = (self.story, &self.clock);
        let how = (story.tag_times, story.seed);
        let engine = Engine::start(&self.disk, &self.registry, endpoints, how, clock);
        let mut tickers = JoinSet::new();
        let clock = self.clock.clone();
        tickers.spawn(async move {
            loop {
                wait(TICK).await;
                clock.advance(TICK);
            }
        });
        let mut events: Vec<_> = story
            .events
            .iter()
            .filter(|(at, _)| *at >= began && end.is_none_or(|end| *at < end))
            .cloned()
            .collect();
        events.sort_by_key(|(at, _)| *at);
        let mut clients = self.begin(began, end, &engine);
        let all_done = async {
            for (at, event) in events {
                wait(at.saturating_sub(self.trace.now())).await;
                self.happen(event).await;
            }
            while let Some(done) = clients.join_next().await {
                // A panic of a client counts with the others.
                done.unwrap_or(Ok(()))?;
            }
            Ok(())
        };
        match end {
            Some(end) => {
                let until = Instant::now() + end.saturating_sub(began);
                // Who is not done comes again.
                let done = timeout_at(until, all_done).await.unwrap_or(Ok(()));
                wait(until.saturating_duration_since(Instant::now())).await;
                done
            }
            None => {
                all_done.await?;
                self.afterwards(&engine).await
            }
        }
    }

    /// The clients that come in this life, or lost their connections by the end of an earlier one.
    fn begin(
        &self,
        began: Duration,
        end: Option<Duration>,
        engine: &Engine,
    ) -> JoinSet<Result<(), Broken>> {
        let mut clients = JoinSet::new();
        for (number, (at, errand)) in self.story.errands.iter().enumerate() {
            let is_done = |done: &Mutex<BTreeSet<usize>>| {
                done.lock().unwrap_or_else(PoisonError::into_inner).contains(&number)
            };
            if is_done(&self.done) || end.is_some_and(|end| *at >= end) {
                continue;
            }
            let mut client = self.client(format!("c{number}"), engine, false);
            client.thinks = ms(1 + number as u64);
            let (done, errand) = (Arc::clone(&self.done), errand.clone());
            let wait_for = at.saturating_sub(began);
            clients.spawn(async move {
                wait(wait_for).await;
                client.run(&errand).await?;
                done.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
                Ok(())
            });
        }
        clients
    }

    async fn happen(&self, event: Event) {
        match event {
            Event::Evict(digest) => {
                let evicted = self.disk.blobs.evict(&digest).await;
                if matches!(evicted, Ok(Evicted::Freed(_))) {
                    self.model().evicted(&digest);
                    self.trace.count("evictions");
                }
                self.trace.note(short(&format!("evict {digest}")));
            }
            Event::Jump(by) => {
                self.clock.advance(by);
                self.trace.note(format!("the clock jumps by {by:?}"));
            }
        }
    }

    /// The weather is over: everything comes to rest, everything can be had, and then upstream
    /// goes away for good.
    async fn afterwards(&self, engine: &Engine) -> Result<(), Broken> {
        self.rest(engine).await?;
        self.trace.note("upstream is well".to_owned());
        self.registry.set_all(None);
        wait(RESTED).await;
        self.clock.advance(LATER);
        // An endpoint that failed is asked once before it is asked by everybody.
        let knock = self.story.catalogue.repositories[0].tags.keys().next().expect("a tag").clone();
        let knock = Errand::Tag { repository: 0, tag: knock, head_first: true };
        self.client("knock".to_owned(), engine, true).run(&knock).await?;
        self.pull_everything(engine, "well", true).await?;
        self.rest(engine).await?;
        for fault in [Fault::Refused, Fault::Status(429), Fault::Garbage] {
            self.trace.note(format!("upstream is gone: {fault:?}"));
            self.registry.set_all(Some(fault));
            wait(RESTED).await;
            self.clock.advance(GONE / 3);
            self.pull_everything(engine, "gone", false).await?;
        }
        self.rest(engine).await
    }

    async fn pull_everything(
        &self,
        engine: &Engine,
        name: &str,
        is_well: bool,
    ) -> Result<(), Broken> {
        let client = self.client(name.to_owned(), engine, is_well);
        let mut errands = Vec::new();
        for (repository, of) in self.story.catalogue.repositories.iter().enumerate() {
            for tag in of.tags.keys() {
                errands.push(Errand::Tag { repository, tag: tag.clone(), head_first: false });
            }
            errands.extend((0..of.images.len()).map(|image| Errand::Image { repository, image }));
        }
        join_all(errands.iter().map(|errand| client.run(errand))).await.into_iter().collect()
    }

    /// Waits until nothing is at work any more.
    async fn rest(&self, engine: &Engine) -> Result<(), Broken> {
        let until = Instant::now() + REST_MAX;
        loop {
            let left = engine.left().await;
            if left == Left::default() || Instant::now() >= until {
                return nothing_left(&left);
            }
            wait(Duration::from_secs(1)).await;
        }
    }
}
