//! Holds program, help and manual page to the same tables.

use super::*;

/// Whether `option` stands in `text` as a word of its own.
fn names_it(text: &str, option: &str) -> bool {
    let in_option = |c: char| c.is_ascii_alphanumeric() || c == '-';
    text.split(|c| !in_option(c)).any(|word| word == option)
}

#[test]
fn manual_and_help_name_every_option() {
    let manual =
        page().replace("\\-", "-").replace("\\fR", " ").replace("\\fB", " ").replace('\n', " ");
    for row in OPTIONS {
        for name in names(row) {
            assert!(names_it(&manual, &name), "the manual lacks {name}");
        }
        assert!(manual.contains(&capital(row.text).replace('\'', "\\(aq")), "{row:?}");
    }
    let help = crate::cli::help();
    // Of those without effect it shows the letters in one word, and of those
    // that are refused nothing.
    let shown = |row: &&Opt| !matches!(row.kind, Kind::Accepted | Kind::Refused);
    for row in OPTIONS.iter().filter(shown) {
        for name in names(row) {
            assert!(names_it(&help, &name), "help lacks {name}");
        }
    }
}

/// Goal: a keyword that is not simply honoured has its line, and no other has.
#[test]
fn the_manual_has_a_line_for_every_keyword_with_a_note() {
    let page = page().replace('\n', " ");
    let (_, settings) = page.split_once(".SH SETTINGS OF SSH").expect("the section");
    let (settings, _) = settings.split_once(".SH ").expect("the next one");
    for keyword in KEYWORDS {
        let line = format!(" .B {} {}", keyword.name, roff(keyword.note));
        assert_eq!(settings.contains(&line), !keyword.note.is_empty(), "{line}");
        assert!(keyword.side == Side::Both || !keyword.note.is_empty(), "{}", keyword.name);
    }
}

#[test]
fn manual_and_help_name_every_exit_code() {
    let (manual, help) = (page(), crate::cli::help());
    let words: Vec<&str> = help.split_whitespace().collect();
    for exit in EXITS {
        let code = exit.code.to_string();
        assert!(words.contains(&code.as_str()), "help lacks {code}");
        assert!(manual.contains(&format!("\n.B {code}\n")), "the manual lacks {code}");
    }
}

/// Which codes exist is known where they are made: in the source.
#[test]
fn no_exit_code_is_missing_from_the_table() {
    let source = include_str!("../../error.rs");
    let codes = source.split("pub enum Code {").nth(1).and_then(|s| s.split('}').next());
    let made = codes.into_iter().flat_map(str::lines).filter_map(|line| {
        let (_, number) = line.trim().strip_suffix(',')?.split_once(" = ")?;
        number.parse::<u8>().ok()
    });
    let made: Vec<u8> = [0].into_iter().chain(made).collect();
    let told: Vec<u8> = EXITS.iter().map(|exit| exit.code).collect();
    assert_eq!(told, made);
}

#[test]
fn the_manual_is_filled_in() {
    let page = page();
    for line in page.lines() {
        assert!(!line.starts_with('@') && line == line.trim_end(), "{line:?}");
    }
    for heading in [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "OPTIONS",
        "EXIT STATUS",
        "A COMMAND INSTEAD OF EVAL",
        "LIFE OF THE TUNNEL",
        "LOGGING IN",
        "SETTINGS OF SSH",
        "MANY JOBS AT ONCE",
        "FLEXNET",
        "LICENSE FILES",
        "LICENSES ON THE WEB",
        "OTHER NODES OF THE JOB",
        "DIAGNOSTICS",
        "ENVIRONMENT",
        "FILES",
        "EXAMPLES",
        "SECURITY",
        "SEE ALSO",
    ] {
        assert!(page.contains(&format!("\n.SH {heading}\n")), "{heading}");
    }
    for (key, _) in MORE {
        assert!(OPTIONS.iter().any(|row| row.key() == *key), "{key}");
    }
}
