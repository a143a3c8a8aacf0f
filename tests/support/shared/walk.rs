//! Random cases: walks through a state machine, texts, bytes.
//!
//! Each case has a seed, which a failure prints. `LEASEHOLD_SEED` runs the case with that seed alone, and `LEASEHOLD_CASES` more cases than
//! a test has otherwise.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Runs a test with this many random cases.
pub fn walk(cases: u64, mut case: impl FnMut(&mut StdRng)) {
    match number("LEASEHOLD_SEED") {
        Some(seed) => run(seed, case),
        None => (0..number("LEASEHOLD_CASES").unwrap_or(0).max(cases)).for_each(|_| run(rand::random(), &mut case)),
    }
}

/// Runs a test with one random case, which takes as long as it likes.
pub fn walk_once(case: impl FnOnce(&mut StdRng)) {
    run(number("LEASEHOLD_SEED").unwrap_or_else(rand::random), case);
}

fn run(seed: u64, case: impl FnOnce(&mut StdRng)) {
    let _shown_at_a_panic = Seed(seed);
    case(&mut StdRng::seed_from_u64(seed));
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: {text:?} is no number")))
}

struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("LEASEHOLD_SEED={} runs this case again", self.0);
        }
    }
}

/// A text of random length, of these characters.
pub fn text(rng: &mut StdRng, characters: &str, length: std::ops::Range<usize>) -> String {
    let characters: Vec<char> = characters.chars().collect();
    let length = rng.random_range(length);
    (0..length).map(|_| characters[rng.random_range(0..characters.len())]).collect()
}

/// A text of random length, of characters of many scripts, without control and format characters.
pub fn any_text(rng: &mut StdRng, length: std::ops::Range<usize>) -> String {
    // Characters of different lengths in UTF-8.
    const RANGES: [(char, char); 6] =
        [(' ', '~'), ('®', 'ÿ'), ('Α', 'Ρ'), ('а', 'я'), ('一', '龥'), ('\u{1f600}', '\u{1f64f}')];
    let length = rng.random_range(length);
    let character = |_| {
        let (first, last) = RANGES[rng.random_range(0..RANGES.len())];
        rng.random_range(first..=last)
    };
    (0..length).map(character).collect()
}

/// Bytes of random length.
pub fn any_bytes(rng: &mut StdRng, length: std::ops::Range<usize>) -> Vec<u8> {
    let length = rng.random_range(length);
    (0..length).map(|_| rng.random()).collect()
}

/// One of these.
pub fn any_of<T: Copy>(rng: &mut StdRng, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())]
}
