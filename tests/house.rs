//! Each room of the source uses only rooms below it.

use std::fs;
use std::path::{Path, PathBuf};

/// From the top down: a room, and the rooms that it may use. The vocabulary
/// (error, log, target, retry) uses itself and sys, and everybody uses both.
const ROOMS: [(&str, &str); 13] = [
    ("main", "start tunnel gateway auth local cli config"),
    ("start", "tunnel gateway auth local cli config"),
    ("tunnel", "gateway auth local config"),
    ("gateway", "auth config"),
    ("auth", "config"),
    ("local", ""),
    ("cli", "config"),
    ("config", ""),
    ("error", ""),
    ("log", ""),
    ("target", ""),
    ("retry", ""),
    ("sys", "-"),
];
const VOCABULARY: &str = "error log target retry sys";
/// Two that do the same thing in two ways, and know nothing of each other.
const APART: [&str; 2] = ["libssh2", "openssh"];

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the source").flatten();
    let paths = entries.map(|entry| entry.path());
    let nested = paths.flat_map(|path| match path.is_dir() {
        true => files(&path),
        false => vec![path],
    });
    nested.filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}

/// The rooms, and whatever else stands at the top, that a file names in its code.
fn named(text: &str, depth: usize) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: Vec<&str> =
        code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join(" ").replace(&"super::".repeat(depth), "crate::");
    let after = code.split("crate::").skip(1);
    let first = |path: &str| -> Vec<String> {
        let list = path.strip_prefix('{').and_then(|list| list.split_once("};"));
        let list = list.map_or_else(|| vec![path], |(list, _)| list.split(',').collect());
        let word = |item: &str| {
            item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
        };
        list.into_iter().map(word).collect()
    };
    after.flat_map(first).collect()
}

#[test]
fn a_room_uses_only_rooms_below_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut uses = 0;
    for file in files(&src) {
        let path = file.strip_prefix(&src).expect("in src").with_extension("");
        let parts: Vec<&str> =
            path.iter().filter_map(|part| part.to_str()).filter(|part| *part != "mod").collect();
        let (_, may) =
            ROOMS.iter().find(|(room, _)| *room == parts[0]).expect("a room of the table");
        let text = fs::read_to_string(&file).expect("text");
        for other in named(&text, parts.len()) {
            uses += 1;
            let common = *may != "-" && VOCABULARY.split(' ').any(|word| word == other);
            let allowed = common || other == parts[0] || may.split(' ').any(|room| room == other);
            assert!(allowed, "{} uses {other}", path.display());
        }
        for (own, foreign) in [(APART[0], APART[1]), (APART[1], APART[0])] {
            let knows = text.contains(&format!("{foreign}::"));
            assert!(!(parts.contains(&own) && knows), "{} uses {foreign}", path.display());
        }
    }
    assert!(uses > 100, "only {uses} uses were seen");
}
