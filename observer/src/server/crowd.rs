//! Bounds the number of connections at the same time, for all together and for each address.
//!
//! A client may send nothing for ever, or read a byte a second. While others wait, it has to give up its place, first the
//! one that has been silent for longest. So neither a thousand silent connections nor slow readers keep a scrape or a
//! probe out, and a connection from another address finds a place at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::warn;

use super::counts::{Counts, Refused};
use crate::sync::lock;

/// The time between two lines in the log about too many connections.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// The maximum number of connections, and how long one may keep its place while others wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) all: usize,
    /// The maximum from one address.
    pub(super) each: usize,
    /// The time for a connection that has not sent a request.
    pub(super) silence: Duration,
    /// The time for a connection that is being answered.
    pub(super) answer: Duration,
}

/// The connections of a server that have a place.
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
    logged: Option<Instant>,
}

#[derive(Debug)]
struct Seat {
    origin: IpAddr,
    doing: Doing,
    since: Instant,
    evicted: Arc<Notify>,
}

/// The state of a connection. The first states here make room first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Doing {
    /// It has not sent a request.
    Nothing,
    /// Its requests are answered, and it may send another.
    Idle,
    /// A request is being answered.
    Answered,
}

impl Seat {
    /// How long the connection may still keep its place.
    fn left(&self, bounds: &Bounds) -> Duration {
        let time = match self.doing {
            Doing::Nothing => bounds.silence,
            Doing::Idle => Duration::ZERO,
            Doing::Answered => bounds.answer,
        };
        time.saturating_sub(self.since.elapsed())
    }
}

/// A place of a connection, which is free again when this is dropped.
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

    /// Waits for a place.
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

    /// A place, if there is one now.
    pub(super) fn place_now(self: &Arc<Self>, origin: IpAddr) -> Option<Place> {
        let place = self.take(origin).ok();
        if place.is_none() {
            self.refuse(&mut lock(&self.state));
        }
        place
    }

    /// Takes a free place, or that of another connection. The error is how long to wait for one.
    fn take(self: &Arc<Self>, origin: IpAddr) -> Result<Place, Duration> {
        let Bounds { all, each, .. } = self.bounds;
        let mut state = lock(&self.state);
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
        if state.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            state.logged = Some(Instant::now());
            let Bounds { all, each, .. } = self.bounds;
            warn!(
                "HTTP connection limit reached ({all}, {each} from one address): idle and slow \
                 connections are closed in favor of new ones, and counted in \
                 observer_http_refused_total{{reason=\"connections\"}}"
            );
        }
    }
}

impl Place {
    /// Waits until the place has to be given up.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }

    /// Marks the start of an answer.
    pub(super) fn begin_answer(&self) {
        self.becomes(Doing::Answered);
    }

    /// Marks the end of an answer.
    pub(super) fn end_answer(&self) {
        self.becomes(Doing::Idle);
    }

    /// Frees the place. The connection goes on without one.
    pub(super) fn give_up(&self) {
        lock(&self.crowd.state).seats.remove(&self.number);
        self.crowd.left.notify_waiters();
    }

    fn becomes(&self, doing: Doing) {
        if let Some(seat) = lock(&self.crowd.state).seats.get_mut(&self.number) {
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
        let is_there = |place: &Place| lock(&crowd.state).seats.contains_key(&place.number);
        let (asking, silent) = (take(1), take(1));
        asking.begin_answer();
        // It is from the same address; there is a place only for others.
        let third = take(1);
        assert_eq!([&asking, &silent, &third].map(is_there), [true, false, true]);
        asking.end_answer();
        let other = take(2);
        let another = take(2);
        assert_eq!([&asking, &third, &other, &another].map(is_there), [true, false, true, true]);
        assert_eq!(crowd.counts.figures().refused.first(), Some(&("connections", 2)));
        drop((asking, other, another));
        assert!(lock(&crowd.state).seats.is_empty());
    }

    #[test]
    fn who_is_in_time_is_left_alone() {
        let crowd = crowd(NEVER, NEVER);
        let places: Vec<_> =
            [1, 1, 2].map(|last| crowd.take(address(last)).expect("a place")).into();
        assert!(crowd.take(address(3)).is_err_and(|wait| wait > NEVER / 2));
        // An idle connection makes room at once.
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
        assert!(lock(&crowd.state).seats.contains_key(&place.number));
    }
}
