//! The table of the features of other libraries: each row names tests, and they exist.

use std::path::Path;

const TABLE: &str = include_str!("../parity.md");

/// The tests that a row names, each with its file.
fn named(row: &str) -> impl Iterator<Item = (&str, &str)> {
    row.split('`').filter_map(|word| word.split_once(".rs::"))
}

#[test]
fn each_row_names_existing_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    // Below the heading.
    let rows: Vec<_> = TABLE.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    assert!(rows.len() > 20, "{} rows", rows.len());
    for row in rows {
        assert_ne!(named(row).count(), 0, "no test for this: {row}");
        for (file, name) in named(row) {
            let text = std::fs::read_to_string(root.join(format!("{file}.rs")));
            let text = text.unwrap_or_else(|error| panic!("{file}.rs: {error}"));
            assert!(text.contains(&format!("fn {name}(")), "{file}.rs has no {name}");
        }
    }
}
