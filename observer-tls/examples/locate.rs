//! Prints where the TLS libraries in files can be probed: `cargo run -p observer-tls --example locate -- FILE…`

use std::time::Instant;

use observer_tls::{Hook, Library, Place, build_id, locate};

#[expect(clippy::print_stdout, reason = "what it is for")]
fn main() {
    for path in std::env::args().skip(1) {
        let file = match std::fs::read(&path) {
            Ok(file) => file,
            Err(error) => {
                println!("{path}: {error}");
                continue;
            }
        };
        let start = Instant::now();
        let located = locate(&file);
        println!("{path}: {} bytes, {:?}", file.len(), start.elapsed());
        match located {
            Err(refusal) => println!("  refused: {refusal}"),
            Ok(located) => {
                let id = build_id(&file).map(|id| id.bytes).unwrap_or_default();
                println!("  {:?}, build id {id:02x?}", located.machine);
                for (kind, refusal) in located.refused {
                    println!("  {kind:?} refused: {refusal}");
                }
                located.libraries.iter().for_each(print);
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "what it is for")]
fn print(library: &Library) {
    let version = library.version.as_deref().unwrap_or("?");
    println!("  {:?} {version}: {:?}", library.kind, library.layout);
    for Hook { offset, bytes, routine, place, stepping } in &library.hooks {
        match place {
            Place::Entry { pushed } => {
                println!(
                    "    {offset:#x} {routine:?} entry, {pushed} pushed, {bytes:02x?} {stepping:?}"
                );
            }
            Place::Return => {
                println!("    {offset:#x} {routine:?} return, {bytes:02x?} {stepping:?}");
            }
        }
    }
}
