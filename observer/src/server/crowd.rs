//! Who is connected at the same time: bounded, for all together and for each address.
//!
//! Somebody may say nothing for ever, or read a byte a second. While others wait, the place goes to them, first
//! from those who have not asked anything for longest. So neither a thousand silent connections nor slow readers
//! keep a scrape or a probe out, and a connection from another address finds a place at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::warn;

use super::counts::{Counts, Refused};

/// Between lines in the log that say that there are too many.
const TELL: Duration = Duration::from_mins(1);

/// How many there may be, and for how long each is left alone while others want its place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) all: usize,
    /// From one address.
    pub(super) each: usize,
    /// Who has not asked anything.
    pub(super) silence: Duration,
    /// Who is being answered.
    pub(super) answer: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Crowd {
    bounds: Bounds,
    counts: Arc<Counts>,
    state: Mutex<State>,
    left: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    seats: HashMap<u64, Seat>,
    told: Option<Instant>,
}

#[derive(Debug)]
struct Seat {
    origin: IpAddr,
    doing: Doing,
    since: Instant,
    evicted: Arc<Notify>,
}

/// What a connection does; those that come first here make room first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    /// It has not sent a request.
    Nothing,
    /// Its requests are answered, and it may send another.
    Idle,
    /// It is being answered.
    Answered,
}

impl Seat {
    /// How long it is still left alone.
    fn left(&self, bounds: &Bounds) -> Duration {
        let time = match self.doing {
            Doing::Nothing => bounds.silence,
            Doing::Idle => Duration::ZERO,
            Doing::Answered => bounds.answer,
        };
        time.saturating_sub(self.since.elapsed())
    }
}

/// A place among those that are served; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    number: u64,
    evicted: Arc<Notify>,
}

impl Crowd {
    pub(super) fn new(bounds: Bounds, counts: Arc<Counts>) -> Arc<Self> {
        Arc::new(Self { bounds, counts, state: Mutex::default(), left: Notify::new() })
    }

    /// A place, once there is one.
    pub(super) async fn place(self: &Arc<Self>, origin: IpAddr) -> Place {
        loop {
            let left = self.left.notified();
            match self.take(origin) {
                Ok(place) => return place,
                Err(wait) => tokio::select! {
                    () = left => {}
                    () = sleep(wait) => {}
                },
            }
        }
    }

    /// A place, if there is one at once.
    pub(super) fn place_now(self: &Arc<Self>, origin: IpAddr) -> Option<Place> {
        let place = self.take(origin).ok();
        if place.is_none() {
            self.refuse(&mut self.state());
        }
        place
    }

    /// A free place, or that of somebody who makes room; or how long to wait for one.
    fn take(self: &Arc<Self>, origin: IpAddr) -> Result<Place, Duration> {
        let Bounds { all, each, .. } = self.bounds;
        let mut state = self.state();
        let own = state.seats.values().filter(|seat| seat.origin == origin).count();
        if own >= each || state.seats.len() >= all {
            let candidates =
                state.seats.iter().filter(|(_, seat)| own < each || seat.origin == origin);
            let first =
                |(_, seat): &(&u64, &Seat)| (seat.left(&self.bounds), seat.doing, seat.since);
            let (number, left) = candidates
                .min_by_key(first)
                .map(|(number, seat)| (*number, seat.left(&self.bounds)))
                .ok_or(self.bounds.answer)?;
            if !left.is_zero() {
                return Err(left);
            }
            if let Some(seat) = state.seats.remove(&number) {
                seat.evicted.notify_one();
            }
            self.refuse(&mut state);
        }
        let (number, evicted) = (state.next, Arc::new(Notify::new()));
        state.next += 1;
        let (doing, since) = (Doing::Nothing, Instant::now());
        state.seats.insert(number, Seat { origin, doing, since, evicted: Arc::clone(&evicted) });
        Ok(Place { crowd: Arc::clone(self), number, evicted })
    }

    fn refuse(&self, state: &mut State) {
        self.counts.refuse(Refused::Connection);
        if state.told.is_none_or(|told| told.elapsed() >= TELL) {
            state.told = Some(Instant::now());
            let Bounds { all, each, .. } = self.bounds;
            warn!(
                "HTTP connection limit reached ({all}, {each} from one address): idle and slow \
                 connections are closed in favor of new ones, and counted in \
                 observer_http_refused_total{{reason=\"connections\"}}"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits until it has to be given up.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// A request is there.
    pub(super) fn begin_answer(&self) {
        self.becomes(Doing::Answered);
    }

    /// It is answered.
    pub(super) fn end_answer(&self) {
        self.becomes(Doing::Idle);
    }

    /// The connection goes on without a place among these.
    pub(super) fn give_up(&self) {
        self.crowd.state().seats.remove(&self.number);
        self.crowd.left.notify_waiters();
    }

    fn becomes(&self, doing: Doing) {
        if let Some(seat) = self.crowd.state().seats.get_mut(&self.number) {
            (seat.doing, seat.since) = (doing, Instant::now());
        }
        if doing == Doing::Idle {
            self.crowd.left.notify_waiters();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_up();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEVER: Duration = Duration::from_hours(1);

    fn crowd(silence: Duration, answer: Duration) -> Arc<Crowd> {
        let bounds = Bounds { all: 3, each: 2, silence, answer };
        Crowd::new(bounds, Arc::default())
    }

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn who_has_asked_nothing_for_longest_makes_room() {
        let crowd = crowd(Duration::ZERO, Duration::ZERO);
        let take = |last| crowd.take(address(last)).expect("a place");
        let is_there = |place: &Place| crowd.state().seats.contains_key(&place.number);
        let (asking, silent) = (take(1), take(1));
        asking.begin_answer();
        // Of the same address, although there is a place for others.
        let third = take(1);
        assert_eq!([&asking, &silent, &third].map(is_there), [true, false, true]);
        asking.end_answer();
        let other = take(2);
        let another = take(2);
        assert_eq!([&asking, &third, &other, &another].map(is_there), [true, false, true, true]);
        assert_eq!(crowd.counts.figures().refused.first(), Some(&("connections", 2)));
        drop((asking, other, another));
        assert!(crowd.state().seats.is_empty());
    }

    #[test]
    fn who_is_in_time_is_left_alone() {
        let crowd = crowd(NEVER, NEVER);
        let places: Vec<_> =
            [1, 1, 2].map(|last| crowd.take(address(last)).expect("a place")).into();
        assert!(crowd.take(address(3)).is_err_and(|wait| wait > NEVER / 2));
        // Nobody has to wait for who may ask again, and need not.
        if let Some(place) = places.first() {
            place.begin_answer();
            place.end_answer();
        }
        assert!(crowd.take(address(3)).is_ok());
    }

    #[tokio::test]
    async fn who_waits_gets_the_place_of_who_leaves() {
        let crowd = crowd(NEVER, NEVER);
        let mut places: Vec<_> =
            [1, 1, 2].map(|last| crowd.take(address(last)).expect("a place")).into();
        assert!(crowd.place_now(address(3)).is_none());
        assert_eq!(crowd.counts.figures().refused.first(), Some(&("connections", 1)));
        let leaves = async { drop(places.pop()) };
        let (place, ()) = tokio::join!(crowd.place(address(3)), leaves);
        assert!(crowd.state().seats.contains_key(&place.number));
    }
}
