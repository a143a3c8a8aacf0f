//! The rules of import of ARCHITECTURE.md: which part of the library may use which, and no circles of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The parts of the library from the bottom up, with the parts that each may use. All may use those of `VOCABULARY`.
const PARTS: &[(&str, &[&str])] = &[
    ("process", &[]),
    ("settings", &["process"]),
    ("config", &["settings", "process"]),
    ("backend", &["process"]),
    ("lease", &["backend", "process"]),
    ("arbiter", &[]),
    ("keeper", &["process"]),
    ("engine", &["settings", "backend", "lease", "arbiter", "keeper", "process"]),
    ("fence", &["backend"]),
    ("api", &["engine", "config", "settings", "backend", "lease", "keeper", "process"]),
    ("testing", &["backend"]),
];

/// Plain data, which imports only each other and what the process is asked for: the time, the host, the wakers of an owner.
const VOCABULARY: &[(&str, &[&str])] = &[
    ("clock", &["process"]),
    ("credentials", &[]),
    ("display", &[]),
    ("finding", &[]),
    ("token", &[]),
    ("info", &["display", "token", "process"]),
    ("error", &["display", "info"]),
    ("key", &["display", "error"]),
    ("owner", &["process"]),
];

/// The only files that may import each other.
const PAIRS: &[(&str, &str)] = &[("api/builder.rs", "api/manager.rs")];

struct Source {
    /// Its module path, without the crate.
    module: Vec<String>,
    /// Everything but comments and unit tests.
    code: String,
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../src")
}

/// The sources by file, relative to `src/`, without tests and the command line.
fn sources() -> BTreeMap<String, Source> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![source_root()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(source_root()).unwrap().to_str().unwrap().to_owned();
            let is_left_out = ["bin", "lib.rs", "guide.rs"].contains(&name.as_str())
                || path.file_stem().is_some_and(|stem| stem == "tests" || stem == "model" || stem == "link_tests");
            if is_left_out {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let module = name.trim_end_matches(".rs").trim_end_matches("/mod");
                let module = module.split('/').map(str::to_owned).collect();
                found.insert(name, Source { module, code: code(&fs::read_to_string(path).unwrap()) });
            }
        }
    }
    found
}

fn code(text: &str) -> String {
    let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Every path that is imported or named in full, as segments from the crate's root, and whether the file only re-exports it.
fn paths(source: &Source, is_mod: bool) -> Vec<(Vec<String>, bool)> {
    let mut found = Vec::new();
    let (mut uses, mut rest) = (Vec::new(), String::new());
    let mut open: Option<String> = None;
    for line in source.code.lines() {
        let start = line.trim_start();
        let begins =
            ["use ", "pub use ", "pub(crate) use ", "pub(super) use "].iter().any(|word| start.starts_with(word));
        match &mut open {
            Some(statement) => statement.push_str(start),
            None if begins => open = Some(start.to_owned()),
            // A declaration is no use.
            None if start.ends_with(';') && (start.starts_with("mod ") || start.contains(") mod ")) => {}
            None => {
                rest.push_str(line);
                rest.push('\n');
            }
        }
        if open.as_ref().is_some_and(|statement| statement.ends_with(';')) {
            uses.extend(open.take());
        }
    }
    for statement in &uses {
        let is_public = statement.starts_with("pub");
        let tree = statement.split_once("use ").unwrap().1.trim_end_matches(';');
        for path in expand(tree) {
            let name = path.rsplit("::").next().unwrap().to_owned();
            let is_handed_on = is_public && !has_word(&rest, &name);
            found.extend(absolute(&path, source, is_mod).map(|path| (path, is_handed_on)));
        }
    }
    let words = rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    let named = words.filter(|word| word.starts_with("crate::") || word.starts_with("super::"));
    found.extend(named.filter_map(|path| absolute(path, source, is_mod)).map(|path| (path, false)));
    found
}

fn has_word(text: &str, word: &str) -> bool {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|known| known == word)
}

/// `a::{b, c::{d}}` as `a::b`, `a::c::d`.
fn expand(tree: &str) -> Vec<String> {
    let Some((head, body)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap().trim().to_owned()];
    };
    let body = body.trim().trim_end_matches('}');
    let (mut parts, mut depth, mut part) = (Vec::new(), 0, String::new());
    for c in tree[head.len() + 1..tree.rfind('}').unwrap_or(tree.len())].chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    parts.push(part);
    assert!(!body.is_empty(), "{tree}");
    let parts = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty());
    parts.flat_map(expand).map(|part| format!("{head}{part}")).collect()
}

/// A path from the crate's root; `None` for other crates.
fn absolute(path: &str, source: &Source, is_mod: bool) -> Option<Vec<String>> {
    let mut segments: Vec<&str> = path.split("::").map(str::trim).filter(|segment| !segment.is_empty()).collect();
    let mut base = match *segments.first()? {
        "crate" => Vec::new(),
        "self" => source.module.clone(),
        "super" => {
            // A file's own items have the file as their parent.
            let _ = is_mod;
            source.module[..source.module.len() - 1].to_vec()
        }
        _ => return None,
    };
    segments.remove(0);
    while segments.first() == Some(&"super") {
        base.pop();
        segments.remove(0);
    }
    base.extend(segments.into_iter().filter(|segment| *segment != "self").map(str::to_owned));
    Some(base)
}

/// The file whose module is the longest prefix of the path.
fn file_of(path: &[String], sources: &BTreeMap<String, Source>) -> Option<String> {
    let depth = |source: &Source| if path.starts_with(&source.module) { source.module.len() } else { 0 };
    let best = sources.iter().max_by_key(|(_, source)| depth(source))?;
    (depth(best.1) > 0).then(|| best.0.clone())
}

/// The imports between files; names that a `mod.rs` re-exports are traced to their definition.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let sources = sources();
    let mut handed_on: BTreeMap<Vec<String>, Vec<String>> = BTreeMap::new();
    for (file, source) in &sources {
        for (path, _) in paths(source, file.ends_with("mod.rs")) {
            if let Some(name) = path.last()
                && source.code.lines().any(|line| line.trim_start().starts_with("pub"))
                && path.len() > source.module.len()
                && path.starts_with(&source.module)
            {
                let mut alias = source.module.clone();
                alias.push(name.clone());
                if alias != path {
                    handed_on.insert(alias, path.clone());
                }
            }
        }
    }
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, source) in &sources {
        let edges = graph.entry(file.clone()).or_default();
        for (path, is_handed_on) in paths(source, file.ends_with("mod.rs")) {
            if is_handed_on {
                continue;
            }
            let depth = (1..=path.len()).rev().find(|depth| handed_on.contains_key(&path[..*depth]));
            let mut target = depth.map_or(path.clone(), |depth| handed_on[&path[..depth]].clone());
            while let Some(next) = handed_on.get(&target) {
                target = next.clone();
            }
            edges.extend(file_of(&target, &sources).filter(|target| target != file));
        }
    }
    graph
}

fn part(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

#[test]
fn no_part_imports_what_is_above_it() {
    let known: BTreeMap<_, _> = PARTS.iter().chain(VOCABULARY).map(|(part, uses)| (*part, *uses)).collect();
    let mut forbidden = Vec::new();
    for (file, targets) in imports() {
        let from = part(&file).to_owned();
        // Its cases use only the public API, from the crate's root.
        let uses = known.get(from.as_str()).unwrap_or_else(|| panic!("{file}: a part without a rule"));
        let is_word = VOCABULARY.iter().any(|(word, _)| *word == from);
        for target in targets {
            let to = part(&target);
            let is_vocabulary = VOCABULARY.iter().any(|(word, _)| *word == to);
            // The process's own error: a wait that is refused.
            let is_error = from == "process" && to == "error";
            let is_allowed =
                to == from || uses.contains(&to) || (is_vocabulary && !is_word && from != "process") || is_error;
            if !is_allowed {
                forbidden.push(format!("{file} -> {target}"));
            }
        }
    }
    assert!(forbidden.is_empty(), "{forbidden:#?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut graph = imports();
    for (one, other) in PAIRS {
        graph.entry((*one).to_owned()).or_default().remove(*other);
    }
    // Removes the files that import none of the rest, until only circles are left, and the files that lead to them.
    loop {
        let done: Vec<String> = graph.iter().filter(|(_, to)| to.is_empty()).map(|(file, _)| file.clone()).collect();
        if done.is_empty() {
            break;
        }
        for file in &done {
            graph.remove(file);
        }
        for targets in graph.values_mut() {
            targets.retain(|target| !done.contains(target));
        }
    }
    // Then the files that none of the rest imports.
    loop {
        let imported: BTreeSet<String> = graph.values().flatten().cloned().collect();
        let before = graph.len();
        graph.retain(|file, _| imported.contains(file));
        if graph.len() == before {
            break;
        }
    }
    assert!(graph.is_empty(), "{graph:#?}");
}

#[test]
fn names_come_from_their_modules() {
    let mut found = Vec::new();
    for (file, source) in sources() {
        if file.starts_with("testing/") {
            continue;
        }
        for (path, _) in paths(&source, file.ends_with("mod.rs")) {
            if path.len() == 1 && path[0].starts_with(char::is_uppercase) {
                found.push(format!("{file}: crate::{}", path[0]));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(file, source)| (file, source.code.lines().count()))
        .filter(|(_, lines)| *lines > 400)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}
