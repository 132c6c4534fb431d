//! Simulates peers, processes and BPF programs at random, and checks all numbers of the real pipeline behind them. The
//! same seed gives the same run.
//!
//! ```text
//! connection ──bytes──▶ kernel ──records──▶ observer::pipeline ──figures──┐
//!     │                                                                   ├──▶ compare
//!     └────────── what they mean ──▶ model ──────figures──────────────────┘
//! ```
//!
//! The same records also go through several rings to as many pipelines, which read them in any order and must publish
//! the same.
//!
//! `OBSERVER_SEED=n` runs one seed, which a failure names; `OBSERVER_SEEDS=n` runs the first `n`.

#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test must fail loudly"
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

/// Number of seeds of each test.
const SEEDS: u64 = 2000;

/// Prints the command that repeats a seed when a check fails.
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

/// Runs a world until all its connections are closed.
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
    compare::nothing_is_open(&world);
    world
}

#[test]
fn without_loss_all_numbers_are_exact() {
    for_each_seed("without_loss", |seed| {
        let mut world = live(seed, Faults::default(), compare::exactly);
        compare::exactly(&world);
        let figures = world.pipeline.figures();
        assert_eq!((figures.dropped_bytes, figures.unknown_references), (0, 0));
        world.outlive();
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
        world.outlive();
    });
}
