//! The chosen kernels and backends, and the work on each.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};

use super::image::Image;
use super::kernels::{BACKENDS, KERNELS, Kernel};

/// Kernels and backends.
#[derive(clap::Args)]
pub(crate) struct Where {
    /// Kernels: 5.10, 6.1, 6.12, 6.12-rt, 7.2 or all.
    ///
    /// On 5.10 the only test is that observer refuses the kernel.
    #[arg(long = "kernel", value_name = "VERSION", default_value = "all", value_delimiter = ',')]
    pub(super) kernels: Vec<String>,
    /// Backends: socket, fentry, kprobe, tracepoint or all.
    #[arg(long = "backend", value_name = "NAME", default_value = "all", value_delimiter = ',')]
    pub(super) backends: Vec<String>,
}

impl Where {
    /// Whether this is the first backend that is chosen on this kernel.
    pub(super) fn begins_with(&self, kernel: &Kernel, backend: &str) -> bool {
        let is_chosen =
            |name: &&&str| self.backends.iter().any(|one| one == "all" || one == **name);
        kernel.backends.iter().find(is_chosen).is_some_and(|first| *first == backend)
    }

    /// Calls `run` with each kernel and each backend that it allows, in as many threads as there are CPUs. Returns the
    /// results in that order.
    pub(super) fn each<T: Send>(
        &self,
        run: impl Fn(&'static Kernel, &Image, &'static str) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let kernels = chosen(&self.kernels, KERNELS, |kernel| kernel.name)?;
        let backends = chosen(&self.backends, BACKENDS, |backend| backend)?;
        let mut images = Vec::new();
        for kernel in kernels {
            let image = Image::of(kernel).with_context(|| format!("kernel {}", kernel.name))?;
            images.push((kernel, image));
        }
        let places: Vec<_> = images
            .iter()
            .flat_map(|(kernel, image)| {
                let possible = backends.iter().filter(|backend| kernel.backends.contains(backend));
                possible.map(move |backend| (*kernel, image, *backend))
            })
            .collect();
        in_parallel(&places, |&(kernel, image, backend)| run(kernel, image, backend))
    }
}

/// Calls `make` with each of `all`, in as many threads as there are CPUs. Returns the results in that order.
fn in_parallel<P: Sync, T: Send>(
    all: &[P],
    make: impl Fn(&P) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let made = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                loop {
                    let turn = next.fetch_add(1, Ordering::Relaxed);
                    let Some(one) = all.get(turn) else { break };
                    let one = make(one);
                    made.lock().unwrap_or_else(PoisonError::into_inner).insert(turn, one);
                }
            });
        }
    });
    made.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

fn chosen<'a, T>(wanted: &[String], all: &'a [T], name: fn(&T) -> &str) -> Result<Vec<&'a T>> {
    if wanted.iter().any(|wanted| wanted == "all") {
        return Ok(all.iter().collect());
    }
    let find = |wanted: &String| {
        all.iter().find(|one| name(one) == wanted).with_context(|| {
            let names: Vec<_> = all.iter().map(name).collect();
            format!("{wanted:?} is not one of {}, all", names.join(", "))
        })
    };
    wanted.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[test]
    fn results_are_in_order_and_an_error_is_one_of_them() {
        let numbers: Vec<u64> = (0..100).collect();
        let doubled = in_parallel(&numbers, |number| Ok(number * 2)).unwrap();
        assert_eq!(doubled, (0..100).map(|number| number * 2).collect::<Vec<_>>());
        let refused = in_parallel(&numbers, |&number| {
            ensure!(number != 7, "not {number}");
            Ok(number)
        });
        assert_eq!(refused.unwrap_err().to_string(), "not 7");
    }

    #[test]
    fn an_unknown_name_cannot_be_chosen() {
        let names = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
            chosen(&wanted, BACKENDS, |backend| backend).map(|chosen| chosen.len())
        };
        assert_eq!(names(&["all"]).unwrap(), 4);
        assert_eq!(names(&["kprobe", "fentry"]).unwrap(), 2);
        assert!(names(&["uprobe"]).unwrap_err().to_string().contains("fentry, kprobe"));
    }
}
