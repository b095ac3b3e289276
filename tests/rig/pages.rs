//! README and manual as their readers have them: the blocks to be pasted, and the tables.

use std::fs;
use std::path::Path;

use super::Job;

/// The text of a page, by its path in the source; `None`: there is none, as beside an
/// archive's binary.
pub fn page(path: &str) -> Option<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).ok()
}

/// The manual as it is printed, in the macros of man(7).
pub fn manual() -> String {
    let job = Job::new();
    let outcome = job.run(job.command(super::job::licfwd()).args(["--generate", "man"]));
    assert_eq!(outcome.code, 0, "{outcome:?}");
    outcome.stdout
}

/// The shell blocks of a text in Markdown.
pub fn blocks(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match (&mut block, line.trim()) {
            (None, "```bash" | "```sh") => block = Some(String::new()),
            (Some(_), "```") => found.extend(block.take()),
            (Some(block), _) => *block += &format!("{line}\n"),
            (None, _) => {}
        }
    }
    found
}

/// The cells of a text's tables, row by row, freed of Markdown.
pub fn rows(text: &str) -> Vec<Vec<String>> {
    const BAR: &str = "\u{1}";
    let cell = |text: &str| {
        let text = text.trim().replace(BAR, "|");
        // A code with backquotes in it has two around it.
        text.strip_prefix("``").and_then(|t| t.strip_suffix("``")).unwrap_or(&text).to_owned()
    };
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.map(|row| row.replace("\\|", BAR).split(" | ").map(cell).collect()).collect()
}

/// The examples of a manual page, between `.EX` and `.EE`.
pub fn examples(text: &str) -> Vec<String> {
    between(text, "\n.EX\n", "\n.EE")
}

/// Its files, between `.nf` and `.fi`.
pub fn files(text: &str) -> Vec<String> {
    between(text, "\n.nf\n", "\n.fi")
}

/// That section of it.
pub fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let section = text.split(&format!("\n.SH {heading}\n")).nth(1).expect("the section");
    section.split("\n.SH ").next().unwrap_or_default()
}

fn between(text: &str, begin: &str, end: &str) -> Vec<String> {
    let signs = [("\\-", "-"), ("\\(ti", "~"), ("\\(aq", "'"), ("\\(ga", "`"), ("\\e", "\\")];
    let plain = |roff: &str| {
        let text =
            signs.iter().fold(roff.to_owned(), |text, (roff, sign)| text.replace(roff, sign));
        text + "\n"
    };
    let begun = text.split(begin).skip(1);
    begun.filter_map(|rest| rest.split(end).next()).map(plain).collect()
}
