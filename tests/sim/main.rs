//! The whole user side against simulated peers, processes and BPF programs: random, and the
//! same again for the same seed.
//!
//! ```text
//! connection ──bytes──▶ kernel ──records──▶ observer::pipeline ──figures──┐
//!     │                                                                   ├──▶ compare
//!     └────────── what they mean ──▶ model ──────figures──────────────────┘
//! ```
//!
//! The same records also go by several rings to as many pipelines, read in any order, which must tell
//! the same.
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
mod host;
mod kernel;
mod model;
mod random;
mod world;
mod writer;

use kernel::Faults;
use random::Random;
use world::World;

/// Seeds of each test.
const SEEDS: u64 = 2000;

/// Names the seed when a check fails.
struct Named(&'static str, u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("OBSERVER_SEED={} cargo test --test sim {}", self.1, self.0);
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
        assert_eq!((world.dropped_bytes(), world.unknown_references()), (0, 0));
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
            few_iterations: some(10),
            late: some(500),
        };
        let mut world = live(seed, faults, compare::nothing_untrue);
        compare::within_losses(&world);
        compare::nothing_is_open(&world);
        assert_eq!(world.outlive().statistics.len(), 0, "processes that are gone leave nothing");
    });
}
