//! The whole user side against simulated peers, processes and kernel programs: random, and the
//! same again for the same seed.
//!
//! ```text
//! connection ──bytes──▶ kernel ──records──▶ observer::pipeline ──figures──┐
//!     │                                                                   ├──▶ compare
//!     └────────── what they mean ──▶ model ──────figures──────────────────┘
//! ```
//!
//! `OBSERVER_SEED=n` runs one seed, that which a failure names; `OBSERVER_SEEDS=n` runs so many.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test: what fails here is to fail loudly"
)]

mod compare;
mod connection;
mod encoder;
mod kernel;
mod model;
mod random;
mod world;
mod writer;

use kernel::Faults;
use random::Random;
use world::World;

/// Seeds of each test.
const SEEDS: u64 = 1500;

/// Names the seed when a check fails.
struct Named(&'static str, u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("OBSERVER_SEED={} cargo test --test simulation {}", self.1, self.0);
        }
    }
}

fn for_each_seed(name: &'static str, run: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().map(|text| text.parse().unwrap());
    let seeds = match number("OBSERVER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("OBSERVER_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let named = Named(name, seed);
        run(seed);
        drop(named);
    }
}

/// Runs a world to its end.
fn live(seed: u64, faults: Faults, mut each: impl FnMut(&World)) -> World {
    let mut random = Random::new(!seed);
    let mut world = World::new(seed, faults);
    for _ in 0..random.between(50, 2500) {
        world.step();
        if random.chance(5) {
            world.drain();
            each(&world);
        }
    }
    world.end();
    world
}

#[test]
fn without_loss_all_numbers_are_exact() {
    for_each_seed("without_loss", |seed| {
        let mut world = live(seed, Faults::default(), compare::exactly);
        compare::exactly(&world);
        compare::nothing_is_open(&world);
        assert_eq!((world.bytes_lost(), world.unknown_references()), (0, 0));
        assert_eq!(world.outlive().statistics.len(), 0, "processes that are gone leave nothing");
    });
}

#[test]
fn with_losses_no_label_is_wrong_and_no_call_is_missed_but_for_them() {
    for_each_seed("with_losses", |seed| {
        let mut random = Random::new(seed ^ 0x5eed);
        let mut some =
            |per_mille| if random.chance(400) { random.between(1, per_mille) } else { 0 };
        let faults = Faults {
            ring_full: some(60),
            unseen: some(10),
            unreadable: some(10),
            messages_full: some(200),
            few_steps: some(10),
        };
        let mut world = live(seed, faults, compare::within_losses);
        compare::within_losses(&world);
        compare::nothing_is_open(&world);
        assert_eq!(world.outlive().statistics.len(), 0, "processes that are gone leave nothing");
    });
}
#[test]
fn zz_stats() {
    let (mut started, mut seen, mut handled, mut nocode, mut nopath, mut lost, mut tol) =
        (0u64, 0u64, [0u64; 17], 0u64, 0u64, 0usize, 0u64);
    for lossy in [false, true] {
        for seed in 0..300 {
            let faults = if lossy {
                Faults { ring_full: 10, unseen: 3, unreadable: 3, messages_full: 50, few_steps: 3 }
            } else {
                Faults::default()
            };
            let w = live(seed, faults, |_| ());
            for f in w.truth.figures.values() {
                started += f.started;
                for c in 0..17 {
                    handled[c] += f.handled[c];
                }
            }
            for t in w.truth.tolerance.values() {
                tol += t.any + t.handled.iter().sum::<u64>();
            }
            let s = w.snapshot();
            for (k, x) in s.statistics.series() {
                seen += x.started;
                nocode += x.handled_code_not_seen;
                if s.paths.path(k.path).is_empty() {
                    nopath += x.started;
                }
            }
            lost += w.kernel.lost.len();
        }
        eprintln!(
            "lossy {lossy}: started {started} seen {seen} handled {handled:?} nocode {nocode} nopath {nopath} lost {lost} tol {tol}"
        );
    }
}
#[test]
fn zz_debug() {
    let seed = 5;
    let mut random = Random::new(seed ^ 0x5eed);
    let mut some = |per_mille| if random.chance(400) { random.between(1, per_mille) } else { 0 };
    let faults = Faults {
        ring_full: some(60),
        unseen: some(10),
        unreadable: some(10),
        messages_full: some(200),
        few_steps: some(10),
    };
    let w = live(seed, faults, |_| ());
    eprintln!("{faults:?} {:?}\n{:?}", w.truth.starts, w.kernel.lost);
    let s = w.snapshot();
    for (k, x) in s.statistics.series() {
        eprintln!(
            "{k:?} {:?} {} {:?}",
            String::from_utf8_lossy(s.paths.path(k.path)),
            x.started,
            x.handled
        );
    }
}
